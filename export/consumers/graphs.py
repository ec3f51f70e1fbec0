"""Graph forms: our ONNX files behind the input that a consumer feeds.

A consumer feeds v = (p / 255 − m) / s per channel for pixels p, with its own m and s; our networks
take (p / 255 − mean) / std. The second is v·(s / std) + (m − mean) / std: one Mul and one Add in
front of the network. Folding them into the first convolution would be wrong at padded borders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.manifest_schema import InputSpec
from export.onnx_export import INPUT, OUTPUT
from pivl_distill.storage.files import write_bytes

Three = tuple[float, float, float]
IMAGENET_MEAN: Three = (0.485, 0.456, 0.406)
IMAGENET_STD: Three = (0.229, 0.224, 0.225)
PREFIX = "input_form"
"""Names of added nodes and tensors begin with this."""


@dataclass(frozen=True)
class InputForm:
    """The tensor that a consumer feeds: (p / 255 − mean) / std per channel of pixels p.

    `mean` and `std` are in RGB order. uint8 crops are plain pixels: mean 0 and std 1 / 255.
    """

    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    colour: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"

    def feed(self, crops: np.ndarray) -> np.ndarray:
        """Return the tensor of crops uint8 RGB [B, H, W, 3] of the input size."""
        pixels = crops if self.colour == "RGB" else crops[..., ::-1]
        if self.dtype == "float32":
            mean, std = (self._ordered(values) for values in (self.mean, self.std))
            pixels = ((pixels.astype(np.float64) / 255 - mean) / std).astype(np.float32)
        return np.ascontiguousarray(
            pixels if self.layout == "NHWC" else pixels.transpose(0, 3, 1, 2)
        )

    def _ordered(self, values: Three) -> np.ndarray:
        return np.array(values if self.colour == "RGB" else values[::-1])


NORMALISED = InputForm(IMAGENET_MEAN, IMAGENET_STD)
"""RGB with ImageNet's mean and deviation."""
UNIT = InputForm()
"""RGB in 0–1."""
PIXELS = InputForm(std=(1 / 255,) * 3)
"""RGB in 0–255, as floats."""


def write_graph(
    source: Path,
    target: Path,
    spec: InputSpec,
    form: InputForm,
    *,
    batch: int | None = None,
    names: tuple[str, str] = (INPUT, OUTPUT),
) -> Path:
    """Write the network in `source` to `target` with another input; return `target`.

    Args:
        source: an ONNX file of an export, in any precision, with normalisation outside the graph.
        target: the file to write.
        spec: the input of `source`.
        form: what the new graph takes.
        batch: a fixed batch size; None: any.
        names: of the new graph's input and output.
    """
    model = onnx.load(source)
    _rename_ends(model.graph, names)
    network_input = model.graph.input[0].name
    nodes, constants, tensor = _adapting_nodes(spec, form, names[0])
    if nodes:
        _replace_input(model.graph, network_input, tensor)
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
        model.graph.initializer.extend(constants)
    height, width = spec.size_hw
    shape = [3, height, width] if form.layout == "NCHW" else [height, width, 3]
    kind = TensorProto.FLOAT if form.dtype == "float32" else TensorProto.UINT8
    size = "batch" if batch is None else batch
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(names[0], kind, [size, *shape]))
    if batch is not None:
        _fix_batch(model.graph, batch)
    _describe(model, form)
    onnx.checker.check_model(model)
    write_bytes(target, model.SerializeToString())
    return target


def _adapting_nodes(
    spec: InputSpec, form: InputForm, name: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Return the nodes from `name` to the network's own input, their constants, and its tensor."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operator: str, constant: np.ndarray | None = None, **attributes: object) -> None:
        inputs = [nodes[-1].output[0] if nodes else name]
        label = f"{PREFIX}_{operator.lower()}"
        if constant is not None:
            constants.append(numpy_helper.from_array(constant, f"{label}_constant"))
            inputs.append(constants[-1].name)
        nodes.append(helper.make_node(operator, inputs, [label], name=label, **attributes))

    if form.dtype == "uint8":
        add("Cast", to=TensorProto.FLOAT)
    if form.layout == "NHWC":
        add("Transpose", perm=[0, 3, 1, 2])
    if form.colour == "BGR":
        add("Gather", np.array([2, 1, 0]), axis=1)
    scale, offset = _affine(spec, form)
    if not np.array_equal(scale, np.ones(3)):
        add("Mul", scale.astype(np.float32).reshape(1, 3, 1, 1))
    if offset.any():
        add("Add", offset.astype(np.float32).reshape(1, 3, 1, 1))
    return nodes, constants, nodes[-1].output[0] if nodes else name


def _affine(spec: InputSpec, form: InputForm) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset per RGB channel from the form's values to the network's."""
    std, mean = np.array(spec.std), np.array(spec.mean)
    return np.array(form.std) / std, (np.array(form.mean) - mean) / std


def _rename_ends(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Rename the only input and the only output."""
    for value, new in zip((graph.input[0], graph.output[0]), names, strict=True):
        for node in graph.node:
            for tensors in (node.input, node.output):
                for number, tensor in enumerate(tensors):
                    if tensor == value.name:
                        tensors[number] = new
        value.name = new


def _replace_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every node that reads `old` read `new`."""
    for node in graph.node:
        for number, tensor in enumerate(node.input):
            if tensor == old:
                node.input[number] = new


def _fix_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Declare the batch size of the output, and drop intermediate shapes, which say otherwise."""
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]


def _describe(model: onnx.ModelProto, form: InputForm) -> None:
    """Correct the metadata, which describes the input of the source."""
    values = {entry.key: entry.value for entry in model.metadata_props}
    values |= {"mean": json.dumps(form.mean), "std": json.dumps(form.std)}
    values |= {"input": f"{form.colour} {form.layout} {form.dtype}"}
    helper.set_model_props(model, values)
