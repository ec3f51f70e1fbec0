"""Load an exported file or engine as an embedding model, to evaluate it like its checkpoint.

`pivl_distill.runtime.Extractor` is the torch-free counterpart for deployment.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.engines.runner import EngineRunner
from export.manifest_schema import InputSpec, Manifest, read_manifest
from export.onnx_inference import run_session
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.runtime.onnx_session import ExecutionDevice
from pivl_distill.runtime.open_artifact import open_network
from pivl_distill.storage.files import sha256
from pivl_distill.storage.readers import check_inside


class _Preprocessed(EmbeddingModel):
    """Preprocessing is in the graph, which takes uint8 crops."""

    def preprocess(self, crops: np.ndarray) -> Tensor:
        return torch.from_numpy(crops)


def load_exported(
    path: Path, device: ExecutionDevice = "cpu"
) -> tuple[EmbeddingModel, ForwardFunction]:
    """Return preprocessing as declared in the manifest, and the file's forward pass on `device`.

    Raises PivlError if the manifest is missing or its hash of the file does not match.
    """
    manifest = read_manifest(path.parent)
    for file, digest in _digests(manifest, path.name).items():
        check_inside(path.with_name(file))
        if not path.with_name(file).is_file() or digest != sha256(path.with_name(file)):
            raise PivlError(
                f"{path.with_name(file)} is not the file its manifest describes; export it again."
            )
    return embedding_model_from_spec(manifest.name, manifest.input), load_forward(path, device)


def _digests(manifest: Manifest, file: str) -> dict[str, str | None]:
    """Return the SHA-256 of an artifact's files by their names; None if there is no such file."""
    for artifact in manifest.artifacts:
        if artifact.file == file:
            return {stored.file: stored.sha256 for stored in artifact.files}
    return {file: None}


def embedding_model_from_spec(name: str, spec: InputSpec) -> EmbeddingModel:
    """Return an embedding model with the preprocessing of `spec` and an identity network."""
    kind = _Preprocessed if spec.preprocessing_in_graph else EmbeddingModel
    return kind(name, nn.Identity(), spec.size_hw, spec.mean, spec.std, spec.cameras)


def load_forward(path: Path, device: ExecutionDevice = "cpu") -> ForwardFunction:
    """Return the forward pass of an engine on the GPU, an ONNX file on `device`, or an IR.

    Raises PivlError if the file cannot run on this machine.
    """
    if path.suffix == ".engine":
        return EngineRunner(path)
    return partial(run_session, open_network(path, device))
