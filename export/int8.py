"""INT8 as explicit quantise–dequantise (QDQ) pairs, in the two forms that the two worlds need.

- For CPUs, ONNX Runtime fuses the pairs around a layer into one integer kernel: activations are
  uint8 with a zero point, weights int8, biases int32, and outputs are quantised too.
- TensorRT takes symmetric int8 for activations and weights, no quantised bias, and wants pairs at
  the inputs of layers only, so that what follows a layer is fused with it before it is rounded.

Weights have a scale for each output channel. Quantised are convolutions and products with weights;
for CPUs, where quantised convolutions feed them, additions, bounded activations and the pooling to
a vector too, or the CPU would go back to float in between. What stays in float in any case: the
layer that sees the image (cheap, and faster so on CPUs), for CPUs convolutions of few channels
(integer kernels are slower on them than float ones), products of two activations (attention),
additions of biases, norms and softmax. Quantised additions of a transformer's residual stream cost
a ViT student 6 points of mAP; its cosine was still 0.999.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
from torch import Tensor

from export.calibration import Ranges
from export.loading import load_forward
from export.manifest_schema import Artifact
from pivl_distill.console import track
from pivl_distill.storage.filenames import INT8_CPU_FILE, INT8_TENSORRT_FILE
from pivl_distill.storage.files import write_bytes

logger = logging.getLogger(__name__)

Int8Target = Literal["cpu", "tensorrt"]
INT8_FILES: dict[Int8Target, str] = {"cpu": INT8_CPU_FILE, "tensorrt": INT8_TENSORRT_FILE}
MAX_FLOAT32_SHARE = 0.5
"""With more of its layers in float32 a file is hardly INT8: then it fails instead."""
MIN_CHANNELS = 16
"""CPUs run a convolution in INT8 if it takes or gives at least so many channels."""
_LAYERS = frozenset(("Conv", "Gemm", "MatMul"))
_ACTIVATIONS = frozenset(("Clip", "Relu"))
_KEEP_MAPS = {"Add": 2, "AveragePool": 1, "Clip": 1, "MaxPool": 1, "Relu": 1}
"""What makes a map of convolutional features from so many others."""
_POOLING = "GlobalAveragePool"


def write_int8(
    onnx_path: Path,
    path: Path,
    target: Int8Target,
    ranges: Ranges,
    float32_nodes: Collection[str] = (),
) -> Path:
    """Write the float32 file `onnx_path` in INT8 to `path`, except `float32_nodes`."""
    model = onnx.load(onnx_path)
    chosen = [name for name in quantisable_nodes(model.graph, target) if name not in float32_nodes]
    write_bytes(path, _quantise(model, target, ranges, chosen).SerializeToString())
    return path


def quantisable_nodes(graph: onnx.GraphProto, target: Int8Target) -> list[str]:
    """Names of the layers, and for CPUs of additions and pooling, that INT8 covers; in graph order.

    For CPUs a convolution has `MIN_CHANNELS`, and an addition or pooling follows something in
    INT8.
    """
    weights = {initializer.name: initializer for initializer in graph.initializer}
    maps: set[str] = set()  # tensors that convolutions made
    integers: set[str] = set()  # those of them that come from something in INT8
    names = []
    for node in graph.node:
        sees_image = node.op_type == "Conv" and not maps
        taken = node.input[: _KEEP_MAPS.get(node.op_type, 1)]
        follows = maps.issuperset(taken) and not integers.isdisjoint(taken)
        if node.op_type in _LAYERS:
            covered = not sees_image and _pays(node, weights, target)
        else:
            joins = node.op_type == "Add" or _is_pooling(node, weights)
            covered = target == "cpu" and follows and joins
        if covered:
            names.append(node.name)
        if node.op_type == "Conv" or (node.op_type in _KEEP_MAPS and maps.issuperset(taken)):
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
    """Write and `verify` INT8 in one form, leaving nodes in float32 until the budget is kept.

    Those that lose most when quantised alone come first, and their number doubles from try to try,
    up to `MAX_FLOAT32_SHARE` of them. `inputs` as for `rank_by_sensitivity`.
    """
    path = onnx_path.with_name(INT8_FILES[target])
    artifact = verify(write_int8(onnx_path, path, target, ranges))
    if artifact.status == "verified" or artifact.retrieval is None:
        return artifact
    logger.info(f"{path.name}: {artifact.failure} Looking for the layers that lose most.")
    ranked = rank_by_sensitivity(onnx_path, target, ranges, inputs)
    count = 1
    while artifact.status == "failed" and count <= MAX_FLOAT32_SHARE * len(ranked):
        kept = ranked[:count]
        write_int8(onnx_path, path, target, ranges, kept)
        artifact = verify(path, float32_nodes=kept)
        count *= 2
    left = f"{len(artifact.float32_nodes)} of {len(ranked)} layers in float32"
    if artifact.status == "verified":
        logger.info(
            f"{path.name} is within budget with {left}: {', '.join(artifact.float32_nodes)}."
        )
        return artifact
    return artifact.model_copy(update={"failure": f"{artifact.failure} That is with {left}."})


def rank_by_sensitivity(
    onnx_path: Path, target: Int8Target, ranges: Ranges, inputs: Sequence[Tensor]
) -> list[str]:
    """The quantisable nodes, the one that loses most when quantised alone first.

    The loss is the noise in the features of `inputs` (crops as the graph takes them, and their
    cameras) relative to how the features differ from crop to crop. Cosines would not do: features
    share a mean that tells nobody apart and hides the loss.
    """
    model = onnx.load(onnx_path)
    features = load_forward(onnx_path)(*inputs)
    spread = (features - features.mean(dim=0)).square().sum()
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "trial.onnx")
        names = quantisable_nodes(model.graph, target)
        for name in track(names, "Quantising layers alone", unit="layers"):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            onnx.save(_quantise(copy, target, ranges, [name]), trial)
            noise = load_forward(trial)(*inputs) - features
            losses[name] = float(noise.square().sum() / spread)
    return sorted(losses, key=lambda name: -losses[name])


def _pays(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], target: Int8Target) -> bool:
    """Whether a layer has weights, and for CPUs a convolution channels enough."""
    weight = weights.get(node.input[1])
    if weight is None or target != "cpu" or node.op_type != "Conv":
        return weight is not None
    groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    return max(weight.dims[0], weight.dims[1] * groups) >= MIN_CHANNELS


def _is_pooling(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node takes the mean of a map [B, C, h, w] over its pixels."""
    if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in weights:
        return False
    axes = numpy_helper.to_array(weights[node.input[1]])
    return sorted(axes % 4) == [2, 3]


def _pooled_at_once(model: onnx.ModelProto, ranges: Ranges, chosen: Sequence[str]) -> Ranges:
    """Write the `chosen` means over maps as the pooling that has an integer kernel; in place.

    Returns the ranges with those of what is new: [B, C, 1, 1] before a mean that drops its pixels.
    """
    added: Ranges = {}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or node.name not in chosen:
            continue
        (made,) = node.output
        keeps_pixels = all(entry.i for entry in node.attribute if entry.name == "keepdims")
        pooled = made if keeps_pixels else f"{made}.pooled"
        added[pooled] = ranges[made]
        nodes[-1] = onnx.helper.make_node(_POOLING, node.input[:1], [pooled], name=node.name)
        if not keeps_pixels:
            flat = onnx.helper.make_node("Flatten", [pooled], [made], name=f"{node.name}.flat")
            nodes.append(flat)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return ranges | added


def _quantise(
    model: onnx.ModelProto, target: Int8Target, ranges: Ranges, chosen: Sequence[str]
) -> onnx.ModelProto:
    """The model with the `chosen` nodes between QDQ pairs; it is changed in place."""
    ranges = _pooled_at_once(model, ranges, chosen)
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
