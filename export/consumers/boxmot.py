"""BoxMOT: ONNX files and an OpenVINO IR, each with a component file and a metadata sidecar.

BoxMOT feeds RGB with ImageNet's mean and deviation, whatever the network was trained with, and
resizes with OpenCV, bilinear without antialiasing. It reads the input size of an ONNX file from its
graph, but that of an IR from the sidecar only (else it is 256×128). Its file names mean something:
one with `veri` or `vehicleid` is a network for vehicles, one with the name of an architecture is
that architecture. So the files here are called `reid`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from pathlib import Path

import yaml

from export.consumers.base import ExportFolder, NetworkFile
from export.consumers.graphs import NORMALISED, write_graph
from export.consumers.openvino_ir import write_ir
from export.consumers.worker import Package, PackageConsumer
from export.manifest_schema import Manifest
from pivl_distill.storage.files import sha256, write_text

STEM = "reid"
IR_FOLDER = f"{STEM}_openvino_model"
"""BoxMOT knows the folder of an IR by the end of its name."""

logger = logging.getLogger(__name__)


class BoxMot(PackageConsumer):
    """Writes an ONNX file per precision and an IR folder, each with sidecar and component file."""

    name, title = "boxmot", "BoxMOT"
    package = Package("boxmot", "run_boxmot.py", "BoxMOT")

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        files = []
        for precision, source in export.sources().items():
            stem = STEM if precision == "fp32" else f"{STEM}.{precision}"
            path = write_graph(source, folder / f"{stem}.onnx", export.manifest.input, NORMALISED)
            write_text(path.with_name(f"{path.name}.metadata.json"), _sidecar(export.manifest))
            write_text(path.with_suffix(".yaml"), _component(export.manifest, path, "onnx"))
            files.append(NetworkFile(path.name, precision))
        if importlib.util.find_spec("openvino"):
            files.append(_write_ir_folder(export, folder))
        else:
            logger.warning(
                "No OpenVINO IR for BoxMOT: openvino is not installed"
                " (`pip install 'pivl-distill[openvino]'`)."
            )
        return tuple(files)

    def arguments(self, folder: Path, file: NetworkFile) -> tuple[Path]:
        return (folder / Path(Path(file.path).parts[0]).with_suffix(".yaml"),)


def _write_ir_folder(export: ExportFolder, folder: Path) -> NetworkFile:
    """Write the float32 network as a folder that BoxMOT opens in OpenVINO."""
    path = write_ir(folder / f"{STEM}.onnx", folder / IR_FOLDER / f"{STEM}.xml")
    write_text(path.with_name("manifest.json"), _sidecar(export.manifest))
    component = _component(export.manifest, path.parent, "openvino")
    write_text(folder / f"{IR_FOLDER}.yaml", component)
    return NetworkFile(f"{IR_FOLDER}/{path.name}", "fp32")


def _sidecar(manifest: Manifest) -> str:
    """Return the metadata that BoxMOT reads beside a file; `model_name` names no architecture."""
    metadata = {
        "schema_version": 1,
        "model_name": "exported",
        "model_kwargs_schema_version": 1,
        "model_kwargs": {"img_size": list(manifest.input.size_hw)},
        "img_size": list(manifest.input.size_hw),
        "preprocess": "resize",
    }
    return json.dumps(metadata, indent=2) + "\n"


def _component(manifest: Manifest, path: Path, backend: str) -> str:
    """Return BoxMOT's description of an appearance encoder; `path` is beside it.

    BoxMOT's `precision` is that of its input tensors: float32 for all of our files.
    """
    component = {
        "backend": backend,
        "artifact": {"path": path.name, "sha256": _digest(path)},
        "device": "cpu",
        "precision": "fp32",
        "preprocessing": "resize",
        "options": {
            "batch_size": 32,
            "embedding_dim": manifest.output.dim,
            "image_size": list(manifest.input.size_hw),
        },
    }
    return yaml.safe_dump(component, sort_keys=False)


def _digest(path: Path) -> str:
    """Return the SHA-256 that BoxMOT computes of a file, or of names and contents of a folder."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256(b"boxmot-artifact-directory-v1\0")
    for file in sorted(path.iterdir()):
        name = file.name.encode()
        digest.update(len(name).to_bytes(8, "big") + name + bytes.fromhex(sha256(file)))
    return digest.hexdigest()
