"""Quantise a float32 ONNX graph to INT8 with explicit quantise–dequantise (QDQ) pairs.

The two targets need different graphs:

- ONNX Runtime on CPUs fuses the pairs around a layer into one integer kernel. Activations are uint8
  with a zero point, weights int8 and biases int32; the outputs of layers are quantised too.
- TensorRT requires symmetric int8 activations and weights and float biases. Pairs are at the inputs
  of layers only, so that the operators after a layer are fused with it before rounding.

Weights have one scale per output channel. Convolutions and products with weights are quantised. For
CPUs, additions, bounded activations and the pooling to a vector are quantised too where quantised
convolutions feed them, so that no conversion to float is needed in between. These stay in float32:
the layer that takes the image (cheap, and faster in float on CPUs); for CPUs, convolutions with few
channels (integer kernels are slower); products of two activations (attention); bias additions,
norms and softmax. Quantising the residual additions of a ViT student cost 6 points of mAP, although
its cosine was still 0.999.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
from torch import Tensor

from export.calibration import Ranges
from export.loading import embedding_model_from_spec, load_forward
from export.manifest_schema import Artifact, InputSpec
from pivl_distill.console import track
from pivl_distill.data.store import CropStore
from pivl_distill.storage.filenames import INT8_CPU_FILE, INT8_TENSORRT_FILE
from pivl_distill.storage.files import write_bytes

logger = logging.getLogger(__name__)

Int8Target = Literal["cpu", "tensorrt"]
"""The runtime that a QDQ graph is made for."""
INT8_FILES: dict[Int8Target, str] = {"cpu": INT8_CPU_FILE, "tensorrt": INT8_TENSORRT_FILE}
MAX_FLOAT32_SHARE = 0.5
"""Upper limit on the share of quantisable nodes left in float32 to stay within budget."""
SENSITIVITY_CROPS = 64
"""Crops on which the sensitivity of layers to INT8 is measured."""
MIN_CHANNELS = 16
"""For CPUs, a convolution is quantised if it has at least this many input or output channels."""
_LAYERS = frozenset(("Conv", "Gemm", "MatMul"))
_ACTIVATIONS = frozenset(("Clip", "Relu"))
_FEATURE_MAP_INPUTS = {"Add": 2, "AveragePool": 1, "Clip": 1, "MaxPool": 1, "Relu": 1}
"""Operators whose output is a feature map if this many of their inputs are."""
_POOLING = "GlobalAveragePool"


def write_int8(
    onnx_path: Path,
    path: Path,
    target: Int8Target,
    ranges: Ranges,
    float32_nodes: Collection[str] = (),
) -> Path:
    """Quantise the float32 file `onnx_path`, write it to `path` and return `path`.

    Args:
        onnx_path: the float32 file.
        path: the INT8 file to write.
        target: the runtime that will run the file.
        ranges: range of each tensor, from `measure_ranges`.
        float32_nodes: names of nodes that are not quantised.
    """
    model = onnx.load(onnx_path)
    chosen = [name for name in quantisable_nodes(model.graph, target) if name not in float32_nodes]
    write_bytes(path, _quantise(model, target, ranges, chosen).SerializeToString())
    return path


def quantisable_nodes(graph: onnx.GraphProto, target: Int8Target) -> list[str]:
    """Return the names of the nodes that INT8 covers, in graph order.

    These are layers with weights and, for CPUs, additions and pooling after a quantised node. For
    CPUs, convolutions need at least `MIN_CHANNELS` channels.
    """
    weights = {initializer.name: initializer for initializer in graph.initializer}
    maps: set[str] = set()  # outputs of convolutions, and feature maps derived from them
    integers: set[str] = set()  # the subset whose producer is quantised
    names = []
    for node in graph.node:
        takes_image = node.op_type == "Conv" and not maps
        inputs = node.input[: _FEATURE_MAP_INPUTS.get(node.op_type, 1)]
        follows = maps.issuperset(inputs) and not integers.isdisjoint(inputs)
        if node.op_type in _LAYERS:
            covered = not takes_image and _quantisable_layer(node, weights, target)
        else:
            supported = node.op_type == "Add" or _is_pooling(node, weights)
            covered = target == "cpu" and follows and supported
        if covered:
            names.append(node.name)
        if node.op_type == "Conv" or (
            node.op_type in _FEATURE_MAP_INPUTS and maps.issuperset(inputs)
        ):
            maps.update(node.output)
            if covered or (follows and node.op_type in _ACTIVATIONS):
                integers.update(node.output)
    return names


def write_int8_within_budget(
    onnx_path: Path,
    target: Int8Target,
    ranges: Ranges,
    inputs: Sequence[Tensor],
    verify: Callable[..., Artifact],
) -> Artifact:
    """Write the INT8 file for `target`, with enough nodes in float32 to stay within its budget.

    Nodes are left in float32 in order of sensitivity; their number doubles with each attempt, up to
    `MAX_FLOAT32_SHARE` of the quantisable nodes.

    Args:
        onnx_path: the float32 file; the INT8 file is written next to it.
        target: the runtime that will run the file.
        ranges: range of each tensor, from `measure_ranges`.
        inputs: as for `rank_by_sensitivity`.
        verify: returns the artifact of a path, with keyword `float32_nodes`.

    Returns:
        The artifact of the last attempt, verified or failed.
    """
    path = onnx_path.with_name(INT8_FILES[target])
    artifact = verify(write_int8(onnx_path, path, target, ranges))
    if artifact.status == "verified" or artifact.parity is None:
        return artifact
    logger.info(f"{path.name}: {artifact.failure} Ranking layers by their sensitivity to INT8.")
    ranked = rank_by_sensitivity(onnx_path, target, ranges, inputs)
    count = 1
    while artifact.status == "failed" and count <= MAX_FLOAT32_SHARE * len(ranked):
        float32_nodes = ranked[:count]
        write_int8(onnx_path, path, target, ranges, float32_nodes)
        artifact = verify(path, float32_nodes=float32_nodes)
        count *= 2
    left = f"{len(artifact.float32_nodes)} of {len(ranked)} layers in float32"
    if artifact.status == "verified":
        logger.info(
            f"{path.name} is within budget with {left}: {', '.join(artifact.float32_nodes)}."
        )
        return artifact
    return artifact.model_copy(update={"failure": f"{artifact.failure} Even with {left}."})


def sensitivity_inputs(spec: InputSpec, crops: CropStore) -> list[Tensor]:
    """Return the first crops, and camera ids if the network takes them, as the graph does."""
    some = crops.crops[:SENSITIVITY_CROPS]
    inputs = [embedding_model_from_spec("sensitivity", spec).preprocess(some)]
    if spec.cameras and crops.camids is not None:
        inputs.append(torch.from_numpy(crops.camids[:SENSITIVITY_CROPS]))
    return inputs


def rank_by_sensitivity(
    onnx_path: Path, target: Int8Target, ranges: Ranges, inputs: Sequence[Tensor]
) -> list[str]:
    """Return the quantisable nodes, most sensitive first; see `layer_sensitivity`."""
    sensitivity = layer_sensitivity(onnx_path, target, ranges, inputs)
    return sorted(sensitivity, key=lambda name: -sensitivity[name])


def layer_sensitivity(
    onnx_path: Path, target: Int8Target, ranges: Ranges, inputs: Sequence[Tensor]
) -> dict[str, float]:
    """Return the sensitivity of each quantisable node to INT8, in graph order.

    Each node is quantised alone. Its sensitivity is the squared error of the features relative to
    their variance over crops. Cosines are not used: features share a mean that carries no identity
    and hides the error. `inputs` are crops as the graph takes them and, if needed, camera ids.
    """
    model = onnx.load(onnx_path)
    features = load_forward(onnx_path)(*inputs)
    spread = (features - features.mean(dim=0)).square().sum()
    sensitivity = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "trial.onnx")
        names = quantisable_nodes(model.graph, target)
        for name in track(names, "Quantising one layer at a time", unit="layers"):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            onnx.save(_quantise(copy, target, ranges, [name]), trial)
            noise = load_forward(trial)(*inputs) - features
            sensitivity[name] = float(noise.square().sum() / spread)
    return sensitivity


def _quantisable_layer(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], target: Int8Target
) -> bool:
    """Whether a layer has weights and, if a convolution for CPUs, enough channels."""
    weight = weights.get(node.input[1])
    if weight is None or target != "cpu" or node.op_type != "Conv":
        return weight is not None
    groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    return max(weight.dims[0], weight.dims[1] * groups) >= MIN_CHANNELS


def _is_pooling(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node averages a feature map [B, C, h, w] over its pixels."""
    if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in weights:
        return False
    axes = numpy_helper.to_array(weights[node.input[1]])
    return sorted(axes % 4) == [2, 3]


def _use_pooling_operator(model: onnx.ModelProto, ranges: Ranges, chosen: Sequence[str]) -> Ranges:
    """Replace `chosen` ReduceMean nodes, in place, by GlobalAveragePool: it has an integer kernel.

    Returns the ranges, extended by the new tensors [B, C, 1, 1].
    """
    new_ranges: Ranges = {}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or node.name not in chosen:
            continue
        (output,) = node.output
        keeps_pixels = all(entry.i for entry in node.attribute if entry.name == "keepdims")
        pooled = output if keeps_pixels else f"{output}.pooled"
        new_ranges[pooled] = ranges[output]
        nodes[-1] = onnx.helper.make_node(_POOLING, node.input[:1], [pooled], name=node.name)
        if not keeps_pixels:
            flat = onnx.helper.make_node("Flatten", [pooled], [output], name=f"{node.name}.flat")
            nodes.append(flat)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return ranges | new_ranges


def _quantise(
    model: onnx.ModelProto, target: Int8Target, ranges: Ranges, chosen: Sequence[str]
) -> onnx.ModelProto:
    """Put the `chosen` nodes between QDQ pairs, in place, and return the model."""
    ranges = _use_pooling_operator(model, ranges, chosen)
    types = _LAYERS | _ACTIVATIONS | {"Add", _POOLING}
    others = [
        node.name
        for node in model.graph.node
        if node.op_type in types - _ACTIVATIONS and node.name not in chosen
    ]
    symmetric = target == "tensorrt"
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
        ),
        nodes_to_quantize=[],
        nodes_to_exclude=others,
        op_types_to_quantize=sorted(types),
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not symmetric,
            "OpTypesToExcludeOutputQuantization": sorted(_LAYERS) if symmetric else [],
        },
    )
    properties = {entry.key: entry.value for entry in model.metadata_props}
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    onnx.helper.set_model_props(quantised, properties | {"precision": "int8"})
    return quantised
