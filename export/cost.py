"""Count the parameters and multiply-adds of a network, in its torch modules and in its ONNX graph.

Both counts follow the same rules. If they are equal, the graph contains no training layers and
lacks no part of the network:

- Parameters are float tensors of more than one element, counted per use. Scalars (an attention
  scale, the bounds of a ReLU6) are constants. A batch norm directly after a convolution is folded
  into it and leaves a bias; any other one counts scale, bias, mean and variance. An all-zero bias
  of a convolution, as in an untrained network, is dropped by the exporter and not counted.
- A quantised weight counts as its float values. Scales, zero points, and mean and standard
  deviation of preprocessing inside the graph are constants.
- Multiply-adds (MACs) are those of convolutions, linear layers and attention products at batch 1.
  Bias additions, norms, activations and pooling are not counted.

Left out on purpose: tied weights, and tables that the exporter computes and stores, such as Swin's
relative positions and rotary embeddings. The counts differ for them, so the export fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from export.onnx_export import example_inputs, preprocessing_nodes
from pivl_distill.errors import PivlError, VerificationError

_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Cost:
    """Deployed parameters, and multiply-adds for one image."""

    parameters: int
    macs: int


def network_cost(network: nn.Module, size_hw: tuple[int, int], cameras: int = 0) -> Cost:
    """Return the cost of a bare network in evaluation mode, for one image of `size_hw` pixels.

    With `cameras` above 0 the network also takes a camera id.
    """
    inputs = example_inputs(1, size_hw, cameras, next(network.parameters()).device)
    network.eval()
    # The counter counts matrix products, which only the unfused attention consists of.
    with (
        torch.no_grad(),
        _disable_attention_fast_path(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as flops,
    ):
        norm_after = _folded_norms(network, inputs)
    convolutions = [m for m in network.modules() if isinstance(m, _ConvNd)]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    counted_separately = {id(c.bias) for c in convolutions} | {
        id(p) for n in norms for p in n.parameters()
    }
    parameters = sum(
        p.numel() for p in network.parameters() if p.numel() > 1 and id(p) not in counted_separately
    )
    for convolution in convolutions:
        bias = _deployed_bias(convolution, norm_after.get(convolution))
        parameters += int(bias.numel() if bias.any() else 0)
    unfolded = set(norms) - set(norm_after.values())
    parameters += sum(4 * norm.num_features for norm in unfolded)
    return Cost(parameters, flops.get_total_flops() // 2)


def graph_cost(onnx_path: Path) -> Cost:
    """Return the cost of an ONNX file of any precision, for one image.

    Raises PivlError if tensor shapes cannot be inferred.
    """
    return model_cost(onnx.load(onnx_path))


def model_cost(source: onnx.ModelProto) -> Cost:
    """Return the cost of a graph, for one image; raises PivlError like `graph_cost`."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    for graph_input in model.graph.input:
        graph_input.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # they still have the dynamic batch size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {i.name: list(i.dims) for i in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    # The exporter stores equal tensors once, so weights are counted per use.
    sizes = _weight_sizes(graph)
    constants = {node.name for node in preprocessing_nodes(graph)}
    nodes = [n for n in graph.node if n.op_type not in _QUANTISERS and n.name not in constants]
    used = (sizes.get(name, 0) for node in nodes for name in node.input)
    return Cost(sum(n for n in used if n > 1), sum(_node_macs(n, shapes) for n in nodes))


def check_no_training_layers(onnx_path: Path, bare: Cost) -> None:
    """Raise VerificationError unless the graph has exactly the cost of the bare network."""
    exported = graph_cost(onnx_path)
    if exported != bare:
        raise VerificationError(
            f"{onnx_path} has {exported.parameters:,} parameters and {exported.macs:,} "
            f"multiply-adds, but the bare network has {bare.parameters:,} and {bare.macs:,}. Either"
            " training layers were exported or part of the network is missing: do not deploy it. "
            "(Networks with stored position tables, such as Swin and EVA, cannot be checked.)"
        )


def _weight_sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Number of elements of each weight: float initialisers and dequantised integers."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    stored = {i.name: math.prod(i.dims) for i in graph.initializer}
    sizes = {i.name: stored[i.name] for i in graph.initializer if i.data_type in floats}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            sizes[node.output[0]] = stored[node.input[0]]
    return sizes


@contextmanager
def _disable_attention_fast_path() -> Iterator[None]:
    """Disable the fused operator that torch's attention module uses in evaluation mode."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _folded_norms(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, _BatchNorm]:
    """Run once and return convolution → the batch norm that directly takes its output."""
    producers: dict[
        int, tuple[nn.Module, Tensor]
    ] = {}  # holds the tensors so that their ids stay unique
    pairs: dict[nn.Module, _BatchNorm] = {}

    def after_convolution(module: nn.Module, _: object, output: Tensor) -> None:
        producers[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, _BatchNorm) and id(inputs[0]) in producers:
            pairs[producers[id(inputs[0])][0]] = module

    hooks = [
        m.register_forward_hook(after_convolution)
        if isinstance(m, _ConvNd)
        else m.register_forward_pre_hook(before_norm)
        for m in network.modules()
        if isinstance(m, (_ConvNd, _BatchNorm))
    ]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _deployed_bias(convolution: _ConvNd, norm: _BatchNorm | None) -> Tensor:
    """Return the convolution's bias after folding `norm` into it; zeros if it has none."""
    bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias
    bias = bias.detach().cpu()
    if norm is None:
        return bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().cpu() / (norm.running_var.cpu() + norm.eps).sqrt()
    return norm.bias.detach().cpu() + (bias - norm.running_mean.cpu()) * scale


def _node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in {"Conv", "Gemm", "MatMul"}:
        return 0
    left, right, output = (shapes.get(n, [0]) for n in (*node.input[:2], node.output[0]))
    if 0 in (*left, *right, *output):
        raise PivlError(
            f"Unknown tensor shapes at {node.op_type} '{node.name}'; its cost cannot be counted."
        )
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(right[1:])
    return math.prod(output) * left[-1]
