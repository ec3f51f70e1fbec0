"""ReID networks that this project did not train: any ONNX file or OpenVINO IR.

presets   named preprocessing, and preprocessing in YAML files
graphs    ONNX Runtime and OpenVINO behind one interface
network   `load_foreign`: crops in, embeddings out
embedder  image files in, unit vectors out, for `embed`

`config/preprocessing.py` declares what the user says about a file.
"""

from pivl_distill.foreign.embedder import FileEmbedder
from pivl_distill.foreign.graphs import NETWORK_SUFFIXES, check_network_file
from pivl_distill.foreign.network import FileForward, is_foreign_network, load_foreign
from pivl_distill.foreign.presets import load_preprocessing

__all__ = [
    "NETWORK_SUFFIXES",
    "FileEmbedder",
    "FileForward",
    "check_network_file",
    "is_foreign_network",
    "load_foreign",
    "load_preprocessing",
]
