"""What an export starts from: a checkpoint, or an ONNX file of others.

Both are written as a float32 file of the same form, and compared with what they compute themselves:
the checkpoint with PyTorch, the file of others with its own graph.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from export.cost import Cost, network_cost
from export.manifest_schema import InputSpec
from export.onnx_export import INPUT, OPSET, write_onnx
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction, vector_space
from pivl_distill.vectors.space import VectorSpace


class WriteGraph(Protocol):
    """Write the float32 file; options as for `write_onnx`."""

    def __call__(self, path: Path, *, normalize: bool, bake_preprocessing: bool) -> Path: ...


@dataclass(frozen=True)
class ExportSource:
    """A network to export."""

    model: EmbeddingModel
    """Preprocessing; the network itself too if `forward` is None."""
    write: WriteGraph
    cost: Cost
    """Of the network without anything that exists in training only."""
    space: VectorSpace
    opset: int = OPSET
    forward: ForwardFunction | None = None
    """Computes the features that files are compared with; None: the network of `model`."""


def checkpoint_source(model: EmbeddingModel, device: torch.device) -> ExportSource:
    """Return a checkpoint as a source; `device` is where torch computes the reference features."""

    def write(path: Path, *, normalize: bool, bake_preprocessing: bool) -> Path:
        return write_onnx(model, path, normalize=normalize, bake_preprocessing=bake_preprocessing)

    on_device = dataclasses.replace(model, network=copy.deepcopy(model.network).to(device))
    return ExportSource(
        on_device,
        write,
        network_cost(model.network, model.size_hw, model.cameras),
        vector_space(model),
    )


def input_spec(model: EmbeddingModel, bake_preprocessing: bool = False) -> InputSpec:
    """Return the input specification of the exported file of `model`."""
    return InputSpec(
        name=INPUT,
        size_hw=model.size_hw,
        mean=model.mean,
        std=model.std,
        layout="NHWC" if bake_preprocessing else "NCHW",
        dtype="uint8" if bake_preprocessing else "float32",
        preprocessing_in_graph=bake_preprocessing,
        cameras=model.cameras,
    )
