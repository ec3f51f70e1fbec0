"""An exported file as an embedding model, to be scored like the network it came from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from export.manifest import read_manifest, sha256
from export.session import open_session, run
from pivl_distill.embedding import EmbeddingModel, Forward
from pivl_distill.errors import PivlError


def load_exported(onnx_path: Path) -> tuple[EmbeddingModel, Forward]:
    """The preprocessing that the manifest states, and the file's own forward pass.

    Raises PivlError if there is no manifest or the file is not the one it describes.
    """
    manifest = read_manifest(onnx_path.parent)
    if manifest.artifacts.get(onnx_path.name) != sha256(onnx_path):
        raise PivlError(f"{onnx_path} is not the file its manifest describes; export it again.")
    spec = manifest.input
    model = EmbeddingModel(
        manifest.name, nn.Identity(), spec.size_hw, spec.mean, spec.std, spec.cameras
    )
    return model, partial(run, open_session(onnx_path))
