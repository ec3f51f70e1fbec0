"""An embedding model as one ONNX file with a dynamic batch.

The graph takes normalised images, and the camera of each where the network has vectors for its
cameras, and returns features; whatever preprocessing needs to know stands
in the file's metadata. Batch norms are folded by the exporter's own optimiser.

Left out on purpose: external data. One file is easier to ship and to hash, and the models exported
here are far below protobuf's 2 GB.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pivl_distill
from pivl_distill.embedding import EmbeddingModel
from pivl_distill.files import write_bytes

INPUT, CAMERAS, OUTPUT = "images", "cameras", "features"


class _Normalized(nn.Module):
    """The network with its features [B, F] scaled to unit length."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        inputs = (images,) if cameras is None else (images, cameras)
        return F.normalize(self.network(*inputs))


def write_onnx(
    model: EmbeddingModel, path: Path, *, normalize: bool = False, opset: int = 20
) -> Path:
    """Write `images` float32 [batch, 3, H, W] → `features` float32 [batch, F]; batch is 1 or more.

    A model with cameras also takes `cameras` int64 [batch]. `normalize` puts the L2 normalisation
    into the graph. The file appears whole or not at all.
    """
    network = _Normalized(model.network) if normalize else model.network
    network.eval()
    device = next(network.parameters()).device
    # A batch of two: an example of one could be taken for a constant.
    example = example_inputs(2, model.size_hw, model.cameras, device)
    program = torch.onnx.export(
        network,
        example,
        input_names=[INPUT, CAMERAS][: len(example)],
        output_names=[OUTPUT],
        dynamic_shapes=({0: "batch"}, {0: torch.export.Dim.DYNAMIC})[: len(example)],
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(model, normalize))
    write_bytes(path, program.model_proto.SerializeToString())
    # An earlier export by other means may have left its weights beside the file.
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return path


def example_inputs(
    batch: int, size_hw: tuple[int, int], cameras: int, device: torch.device
) -> tuple[Tensor, ...]:
    """What a network takes: `batch` images of zeros, all of camera 0 where it has cameras."""
    images = torch.zeros(batch, 3, *size_hw, device=device)
    return (images, torch.zeros(batch, dtype=torch.long, device=device)) if cameras else (images,)


def _metadata(model: EmbeddingModel, normalize: bool) -> dict[str, str]:
    facts = {
        "name": model.name,
        "size_hw": model.size_hw,
        "mean": model.mean,
        "std": model.std,
        "normalised": normalize,
        "cameras": model.cameras,
        "version": pivl_distill.__version__,
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in facts.items()}
