"""An exported file as an embedding model, to be scored like the network it came from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.manifest import InputSpec, read_manifest, sha256
from export.session import open_session, run
from pivl_distill.embedding import EmbeddingModel, Forward
from pivl_distill.errors import PivlError


class _Preprocessed(EmbeddingModel):
    """The graph does its own preprocessing and takes the crops as they are."""

    def preprocess(self, crops: np.ndarray) -> Tensor:
        return torch.from_numpy(crops)


def load_exported(onnx_path: Path) -> tuple[EmbeddingModel, Forward]:
    """The preprocessing that the manifest states, and the file's own forward pass.

    Raises PivlError if there is no manifest or the file is not the one it describes.
    """
    manifest = read_manifest(onnx_path.parent)
    described = {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
    if described.get(onnx_path.name) != sha256(onnx_path):
        raise PivlError(f"{onnx_path} is not the file its manifest describes; export it again.")
    return as_embedding_model(manifest.name, manifest.input), forward_of(onnx_path)


def as_embedding_model(name: str, spec: InputSpec) -> EmbeddingModel:
    """What `embed` needs to know to feed an exported file; there is no network in it."""
    kind = _Preprocessed if spec.preprocessing_in_graph else EmbeddingModel
    return kind(name, nn.Identity(), spec.size_hw, spec.mean, spec.std, spec.cameras)


def forward_of(onnx_path: Path) -> Forward:
    """The forward pass of a file under ONNX Runtime on the CPU."""
    return partial(run, open_session(onnx_path))
