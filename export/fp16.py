"""Half precision in the graph itself, as strongly typed engines need it, between float32 borders.

What sums many values or divides by small ones stays in float32 between casts: norms, softmax,
pooling to a vector, L2 normalisation and baked-in preprocessing. Convolutions and matrix products,
nearly all of the time and of the file, are halved.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.onnx_export import preprocessing_nodes
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import write_bytes

SENSITIVE = frozenset(
    (
        "BatchNormalization", "GlobalAveragePool", "GroupNormalization", "InstanceNormalization",
        "LayerNormalization", "LpNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Resize",
        "RMSNormalization", "Softmax",
    )
)  # fmt: skip
_SCALE_BY_LENGTH = frozenset(("Clip", "Max", "Expand", "Div"))
"""What follows the length in `torch.nn.functional.normalize`."""
_CASTS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def write_fp16(onnx_path: Path, path: Path) -> Path:
    """Write the float32 file `onnx_path` with half-precision weights and products to `path`.

    Raises PivlError naming a weight that half precision cannot hold.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_path), data_prop=True)
    _HalfPrecisionGraph(model.graph).convert()
    onnx.helper.set_model_props(
        model, {p.key: p.value for p in model.metadata_props} | {"precision": "fp16"}
    )
    write_bytes(path, model.SerializeToString())
    return path


class _HalfPrecisionGraph:
    """One graph on its way to half precision: which type each float tensor has by now."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        values = [*graph.input, *graph.value_info, *graph.output]
        self.types = {
            value.name: TensorProto.FLOAT
            for value in values
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.kept = {node.name for node in _sensitive_nodes(graph)}
        self.nodes: list[NodeProto] = []
        self.made: set[str] = set()

    def convert(self) -> None:
        """Rewrite the graph in place; every tensor keeps the type that its node gives it."""
        (output,) = (value.name for value in self.graph.output)
        for node in list(self.graph.node):
            wanted = self._type_of(node)
            for position, name in enumerate(node.input):
                if name in self.weights or name in self.types:
                    node.input[position] = self._as(name, wanted)
            for name in node.output:
                if name in self.types:
                    self.types[name] = wanted
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                    attribute.i = wanted
            self.nodes.append(node)
        if self.types[output] == TensorProto.FLOAT16:
            self._rename(output, f"{output}.fp16")
            self.nodes.append(_cast(f"{output}.fp16", output, TensorProto.FLOAT))
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        unused = [weight for name, weight in self.weights.items() if name not in used]
        for weight in unused:
            self.graph.initializer.remove(weight)

    def _type_of(self, node: NodeProto) -> int:
        """What a node computes in; a transposition computes nothing and keeps what it is given.

        Cast before it, transposed and multiplied, a tensor crashes ONNX Runtime 1.31 while it loads
        the file for x86 CPUs (its issue 28392).
        """
        if node.op_type == "Transpose":
            return self.types.get(node.input[0], TensorProto.FLOAT16)
        return TensorProto.FLOAT if node.name in self.kept else TensorProto.FLOAT16

    def _as(self, name: str, wanted: int) -> str:
        """The tensor in the wanted type, which is made where it is first needed."""
        if self.types.get(name, TensorProto.FLOAT) == wanted:
            return name
        converted = f"{name}.{_CASTS[wanted]}"
        if converted not in self.made:
            self.made.add(converted)
            if name in self.weights:
                self.graph.initializer.append(_half(self.weights[name], converted))
            else:
                self.nodes.append(_cast(name, converted, wanted))
        return converted

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]


def _sensitive_nodes(graph: onnx.GraphProto) -> Iterable[NodeProto]:
    lengths: set[str] = set()
    yield from preprocessing_nodes(graph)
    for node in graph.node:
        if node.op_type == "ReduceL2" or (
            node.op_type in _SCALE_BY_LENGTH and lengths.intersection(node.input)
        ):
            lengths.update(node.output)
            yield node
        elif node.op_type in SENSITIVE:
            yield node


def _half(weight: TensorProto, name: str) -> TensorProto:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(weight).astype(np.float16)
    if not np.isfinite(values).all():
        raise PivlError(f"The weight '{weight.name}' is too large for half precision.")
    return numpy_helper.from_array(values, name)


def _cast(name: str, converted: str, wanted: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [name], [converted], name=f"to_{converted}", to=wanted)
