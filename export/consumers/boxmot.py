"""BoxMOT: ONNX files and an OpenVINO IR, each with a component file and a metadata sidecar.

BoxMOT feeds RGB with ImageNet's mean and deviation, whatever the network was trained with, and
resizes with OpenCV, bilinear without antialiasing. It reads the input size of an ONNX file from its
graph, but that of an IR from the sidecar only (else it is 256×128). Its file names mean something:
one with `veri` or `vehicleid` is a network for vehicles, one with the name of an architecture is
that architecture. So the files here are called `reid`.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from export.consumers.base import ExportFolder, NetworkFile
from export.consumers.graphs import NORMALISED, write_graph
from export.consumers.worker import PackageConsumer
from export.manifest_schema import Manifest
from pivl_distill.storage.files import sha256, write_text

STEM = "reid"


class BoxMot(PackageConsumer):
    """Writes `reid.onnx` and one ONNX file per further precision, each with its two files."""

    name, title = "boxmot", "BoxMOT"
    distribution, script = "boxmot", "run_boxmot.py"

    def write(self, export: ExportFolder, folder: Path) -> tuple[NetworkFile, ...]:
        files = []
        for precision, source in export.sources().items():
            stem = STEM if precision == "fp32" else f"{STEM}.{precision}"
            path = write_graph(source, folder / f"{stem}.onnx", export.manifest.input, NORMALISED)
            write_text(path.with_name(f"{path.name}.metadata.json"), _sidecar(export.manifest))
            component = path.with_suffix(".yaml")
            write_text(component, _component(export.manifest, path, "onnx"))
            files.append(NetworkFile(path.name, precision))
        return tuple(files)

    def arguments(self, folder: Path, file: NetworkFile) -> tuple[Path]:
        return ((folder / file.path).with_suffix(".yaml"),)


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
        "artifact": {"path": path.name, "sha256": sha256(path)},
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
