"""Write an embedding model as one float32 ONNX file with a dynamic batch dimension.

The graph takes normalised images (or uint8 crops, if preprocessing is in the graph) and, for a
network with camera embeddings, camera ids. It returns features. The file's metadata describes the
preprocessing. The optimiser of torch's exporter folds batch norms into convolutions.

Left out on purpose: resizing, which the caller does when cropping, and external data: one file is
easier to deploy and to hash, and the models are far below protobuf's limit of 2 GB.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pivl_distill
from pivl_distill.models.embedding import EmbeddingModel, vector_space
from pivl_distill.storage.files import write_bytes
from pivl_distill.vectors.space import VectorSpace

INPUT, CAMERAS, OUTPUT = "images", "cameras", "features"
OPSET = 20
"""ONNX operator set; ONNX Runtime 1.17 and TensorRT 10 or later support it."""


class _DeployedNetwork(nn.Module):
    """The network with optional preprocessing before it and L2 normalisation after it."""

    def __init__(self, model: EmbeddingModel, normalize: bool, bake_preprocessing: bool) -> None:
        super().__init__()
        self.network = model.network
        self.mean, self.std = model.mean, model.std
        self.normalize, self.bake_preprocessing = normalize, bake_preprocessing

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        if self.bake_preprocessing:
            # The copy keeps the channels-last strides of the crops out of the graph.
            images = _normalized(images, self.mean, self.std).contiguous()
        inputs = (images,) if cameras is None else (images, cameras)
        features: Tensor = self.network(*inputs)
        return F.normalize(features) if self.normalize else features


def _normalized(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """`normalize_crops` as traceable operations, with one constant per channel."""
    images = crops.float().permute(0, 3, 1, 2) / 255  # cast first: TensorRT cannot transpose uint8
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
    """Write the model as ONNX, atomically, and return `path`.

    The graph maps `images` float32 [batch, 3, H, W] to `features` float32 [batch, F], for any batch
    size from 1. A model with cameras also takes `cameras` int64 [batch].

    Args:
        model: the bare network and its preprocessing.
        path: the file to write.
        normalize: L2-normalise the features inside the graph.
        bake_preprocessing: divide by 255, subtract the mean and divide by the standard deviation
            inside the graph; `images` are then uint8 RGB [batch, H, W, 3].
        opset: ONNX operator set.
    """
    network = _DeployedNetwork(model, normalize, bake_preprocessing).eval()
    device = next(network.parameters()).device
    # The exporter could treat a batch size of 1 as a constant.
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
    options = {"normalize": normalize, "bake_preprocessing": bake_preprocessing}
    program.model.metadata_props.update(file_metadata(model, vector_space(model), **options))
    proto = program.model_proto
    _drop_stack_traces(proto.graph)
    write_bytes(path, proto.SerializeToString())
    # Remove external data that another exporter may have left for this file name.
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return path


def _drop_stack_traces(graph: onnx.GraphProto) -> None:
    """Drop the stack traces: a fifth of a small file, with local paths in them."""
    for element in (graph, *graph.node, *graph.value_info, *graph.initializer):
        del element.metadata_props[:]


def preprocessing_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the preprocessing nodes before the network; empty unless it is in the graph."""
    images = graph.input[0]
    if images.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return []
    nodes: list[onnx.NodeProto] = []
    tensor = images.name
    for node in graph.node:  # in execution order
        if tensor not in node.input or node.op_type == "Shape":
            continue
        if node.op_type not in {"Transpose", "Cast", "Div", "Sub"}:
            break
        nodes.append(node)
        tensor = node.output[0]
    return nodes


def example_inputs(
    batch: int, size_hw: tuple[int, int], cameras: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return `batch` zero images [batch, 3, H, W] and, if `cameras` is not 0, zero camera ids."""
    images = torch.zeros(batch, 3, *size_hw, device=device)
    return (images, torch.zeros(batch, dtype=torch.long, device=device)) if cameras else (images,)


def file_metadata(
    model: EmbeddingModel, space: VectorSpace, *, normalize: bool, bake_preprocessing: bool
) -> dict[str, str]:
    """Return what an exported file says about itself; options as for `write_onnx`."""
    metadata = {
        "name": model.name,
        "size_hw": model.size_hw,
        "mean": model.mean,
        "std": model.std,
        "normalised": normalize,
        "preprocessing_in_graph": bake_preprocessing,
        "cameras": model.cameras,
        "version": pivl_distill.__version__,
        **space.metadata(),
    }
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
