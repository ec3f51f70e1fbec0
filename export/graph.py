"""An embedding model as one ONNX file with a dynamic batch.

The graph takes normalised images and returns features; whatever preprocessing needs to know stands
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

INPUT, OUTPUT = "images", "features"


class _Normalized(nn.Module):
    """The network with its features [B, F] scaled to unit length."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(images))


def write_onnx(
    model: EmbeddingModel, path: Path, *, normalize: bool = False, opset: int = 20
) -> Path:
    """Write `images` float32 [batch, 3, H, W] → `features` float32 [batch, F]; batch is 1 or more.

    `normalize` puts the L2 normalisation into the graph. The file appears whole or not at all.
    """
    network = _Normalized(model.network) if normalize else model.network
    network.eval()
    device = next(network.parameters()).device
    # A batch of two: an example of one could be taken for a constant.
    example = torch.zeros(2, 3, *model.size_hw, device=device)
    program = torch.onnx.export(
        network,
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: "batch"},),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(model, normalize))
    write_bytes(path, program.model_proto.SerializeToString())
    # An earlier export by other means may have left its weights beside the file.
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return path


def _metadata(model: EmbeddingModel, normalize: bool) -> dict[str, str]:
    facts = {
        "name": model.name,
        "size_hw": model.size_hw,
        "mean": model.mean,
        "std": model.std,
        "normalised": normalize,
        "version": pivl_distill.__version__,
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in facts.items()}
