"""ReID networks that this project did not train: any ONNX file or OpenVINO IR.

presets   named preprocessing, and preprocessing in YAML files
graphs    ONNX Runtime and OpenVINO behind one interface
network   `load_foreign`: crops in, embeddings out

`config/preprocessing.py` declares what the user says about a file.
"""

from pivl_distill.foreign.graphs import NETWORK_SUFFIXES, check_network_file
from pivl_distill.foreign.network import is_foreign_network, load_foreign
from pivl_distill.foreign.presets import load_preprocessing

__all__ = [
    "NETWORK_SUFFIXES",
    "check_network_file",
    "is_foreign_network",
    "load_foreign",
    "load_preprocessing",
]
