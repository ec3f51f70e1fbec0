"""An embedding model as one ONNX file with a dynamic batch.

The graph takes normalised images, or with baked-in preprocessing crops as they are, and the camera
of each where the network has vectors for its cameras. It returns features; whatever preprocessing
needs to know stands in the file's metadata. Batch norms are folded by the exporter's own optimiser.

Left out on purpose: resizing, which whoever cuts the crops does anyway, and external data. One file
is easier to ship and to hash, and the models exported here are far below protobuf's 2 GB.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pivl_distill
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.storage.files import write_bytes

INPUT, CAMERAS, OUTPUT = "images", "cameras", "features"
OPSET = 20
"""Of ONNX's operators, fixed: ONNX Runtime from 1.17 and TensorRT from 10 on read it."""


class _Deployed(nn.Module):
    """A network from crops or normalised images to features [B, F], if asked of unit length."""

    def __init__(self, model: EmbeddingModel, normalize: bool, bake_preprocessing: bool) -> None:
        super().__init__()
        self.network = model.network
        self.mean, self.std = model.mean, model.std
        self.normalize, self.bake_preprocessing = normalize, bake_preprocessing

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        if self.bake_preprocessing:
            # Without the copy the graph would follow the strides of channels that come last.
            images = _normalized(images, self.mean, self.std).contiguous()
        inputs = (images,) if cameras is None else (images, cameras)
        features: Tensor = self.network(*inputs)
        return F.normalize(features) if self.normalize else features


def _normalized(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """`normalize_crops` in graph form, with one constant per channel."""
    images = crops.float().permute(0, 3, 1, 2) / 255  # in this order: TensorRT moves no bytes
    shape = (1, 3, 1, 1)
    mean_t = torch.tensor(mean, device=images.device).view(shape)
    std_t = torch.tensor(std, device=images.device).view(shape)
    return (images - mean_t) / std_t


def write_onnx(
    model: EmbeddingModel,
    path: Path,
    *,
    normalize: bool = False,
    bake_preprocessing: bool = False,
    opset: int = OPSET,
) -> Path:
    """Write `images` float32 [batch, 3, H, W] → `features` float32 [batch, F]; batch is 1 or more.

    A model with cameras also takes `cameras` int64 [batch]. `normalize` puts the L2 normalisation
    into the graph, `bake_preprocessing` division by 255, mean and deviation: then `images` are
    uint8 RGB [batch, H, W, 3]. The file appears whole or not at all.
    """
    network = _Deployed(model, normalize, bake_preprocessing).eval()
    device = next(network.parameters()).device
    # A batch of two: an example of one could be taken for a constant.
    example = example_inputs(2, model.size_hw, model.cameras, device)
    if bake_preprocessing:
        crops = torch.zeros(2, *model.size_hw, 3, dtype=torch.uint8, device=device)
        example = (crops, *example[1:])
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
    program.model.metadata_props.update(_metadata(model, normalize, bake_preprocessing))
    proto = program.model_proto
    _forget_tracing(proto.graph)
    write_bytes(path, proto.SerializeToString())
    # An earlier export by other means may have left its weights beside the file.
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return path


def _forget_tracing(graph: onnx.GraphProto) -> None:
    """Drop the stack traces: a fifth of a small file, and full of this machine's paths."""
    for traced in (graph, *graph.node, *graph.value_info, *graph.initializer):
        del traced.metadata_props[:]


def preprocessing_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that baked-in preprocessing put before the network; none without it."""
    images = graph.input[0]
    if images.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return []
    nodes: list[onnx.NodeProto] = []
    made = images.name
    for node in graph.node:  # in order of execution
        if made not in node.input or node.op_type == "Shape":
            continue
        if node.op_type not in {"Transpose", "Cast", "Div", "Sub"}:
            break
        nodes.append(node)
        made = node.output[0]
    return nodes


def example_inputs(
    batch: int, size_hw: tuple[int, int], cameras: int, device: torch.device
) -> tuple[Tensor, ...]:
    """What a network takes: `batch` images of zeros, all of camera 0 where it has cameras."""
    images = torch.zeros(batch, 3, *size_hw, device=device)
    return (images, torch.zeros(batch, dtype=torch.long, device=device)) if cameras else (images,)


def _metadata(model: EmbeddingModel, normalize: bool, bake_preprocessing: bool) -> dict[str, str]:
    metadata = {
        "name": model.name,
        "size_hw": model.size_hw,
        "mean": model.mean,
        "std": model.std,
        "normalised": normalize,
        "preprocessing_in_graph": bake_preprocessing,
        "cameras": model.cameras,
        "version": pivl_distill.__version__,
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
