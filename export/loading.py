"""An exported file or engine as an embedding model, to be scored like the network it came from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.engines.runner import EngineRunner
from export.manifest_schema import InputSpec, read_manifest
from export.onnx_inference import run_session
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.runtime.onnx_session import PROVIDERS, ExecutionDevice, open_session
from pivl_distill.storage.files import sha256


class _Preprocessed(EmbeddingModel):
    """The graph does its own preprocessing and takes the crops as they are."""

    def preprocess(self, crops: np.ndarray) -> Tensor:
        return torch.from_numpy(crops)


def load_exported(
    path: Path, device: ExecutionDevice = "cpu"
) -> tuple[EmbeddingModel, ForwardFunction]:
    """The preprocessing that the manifest states, and the file's own forward pass on `device`.

    Raises PivlError if there is no manifest or the file is not the one it describes.
    """
    manifest = read_manifest(path.parent)
    described = {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
    if described.get(path.name) != sha256(path):
        raise PivlError(f"{path} is not the file its manifest describes; export it again.")
    return embedding_model_from_spec(manifest.name, manifest.input), load_forward(path, device)


def embedding_model_from_spec(name: str, spec: InputSpec) -> EmbeddingModel:
    """What `embed` needs to know to feed an exported file; there is no network in it."""
    kind = _Preprocessed if spec.preprocessing_in_graph else EmbeddingModel
    return kind(name, nn.Identity(), spec.size_hw, spec.mean, spec.std, spec.cameras)


def load_forward(path: Path, device: ExecutionDevice = "cpu") -> ForwardFunction:
    """The forward pass of an engine on the GPU, or of an ONNX file under ONNX Runtime on `device`.

    Raises PivlError if the file cannot run here.
    """
    if path.suffix == ".engine":
        return EngineRunner(path)
    return partial(run_session, open_session(path, providers=[PROVIDERS[device]]))
