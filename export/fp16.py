"""Convert a float32 ONNX graph to half precision, with float32 inputs and outputs.

The types are written into the graph, as strongly typed engines require. Operations that sum many
values or divide by small ones stay in float32 between casts: norms, softmax, pooling to a vector,
L2 normalisation and preprocessing. Convolutions and matrix products, which are nearly all of the
run time and file size, are converted.
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
_NORMALIZE_OPS = frozenset(("Clip", "Max", "Expand", "Div"))
"""Operators after the norm in the graph of `torch.nn.functional.normalize`."""
_CASTS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def write_fp16(onnx_path: Path, path: Path) -> Path:
    """Convert the float32 file `onnx_path` to half precision and write it to `path`.

    Raises PivlError, with the weight's name, if a weight overflows in half precision.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_path), data_prop=True)
    _HalfPrecisionGraph(model.graph).convert()
    onnx.helper.set_model_props(
        model, {p.key: p.value for p in model.metadata_props} | {"precision": "fp16"}
    )
    write_bytes(path, model.SerializeToString())
    return path


class _HalfPrecisionGraph:
    """A graph during conversion; `types` is the current type of each float tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        values = [*graph.input, *graph.value_info, *graph.output]
        self.types = {
            value.name: TensorProto.FLOAT
            for value in values
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.float32_nodes = {node.name for node in _sensitive_nodes(graph)}
        self.nodes: list[NodeProto] = []
        self.casts: set[str] = set()

    def convert(self) -> None:
        """Convert the graph in place; each node computes in one type, with casts in between."""
        (output,) = (value.name for value in self.graph.output)
        for node in list(self.graph.node):
            dtype = self._type_of(node)
            for position, name in enumerate(node.input):
                if name in self.weights or name in self.types:
                    node.input[position] = self._as(name, dtype)
            for name in node.output:
                if name in self.types:
                    self.types[name] = dtype
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                    attribute.i = dtype
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
        """Return the type a node computes in; a transposition keeps the type of its input.

        A cast before a transposition that a product follows crashes ONNX Runtime 1.31 when it loads
        the file on x86 CPUs (onnxruntime issue 28392).
        """
        if node.op_type == "Transpose":
            return self.types.get(node.input[0], TensorProto.FLOAT16)
        return TensorProto.FLOAT if node.name in self.float32_nodes else TensorProto.FLOAT16

    def _as(self, name: str, dtype: int) -> str:
        """Return the name of the tensor in this type; insert the cast at its first use."""
        if self.types.get(name, TensorProto.FLOAT) == dtype:
            return name
        converted = f"{name}.{_CASTS[dtype]}"
        if converted not in self.casts:
            self.casts.add(converted)
            if name in self.weights:
                self.graph.initializer.append(_half(self.weights[name], converted))
            else:
                self.nodes.append(_cast(name, converted, dtype))
        return converted

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]


def _sensitive_nodes(graph: onnx.GraphProto) -> Iterable[NodeProto]:
    """Yield the nodes that stay in float32."""
    norms: set[str] = set()
    yield from preprocessing_nodes(graph)
    for node in graph.node:
        if node.op_type == "ReduceL2" or (
            node.op_type in _NORMALIZE_OPS and norms.intersection(node.input)
        ):
            norms.update(node.output)
            yield node
        elif node.op_type in SENSITIVE:
            yield node


def _half(weight: TensorProto, name: str) -> TensorProto:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(weight).astype(np.float16)
    if not np.isfinite(values).all():
        raise PivlError(
            f"The weight '{weight.name}' is too large for half precision; export without fp16."
        )
    return numpy_helper.from_array(values, name)


def _cast(name: str, converted: str, dtype: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [name], [converted], name=f"to_{converted}", to=dtype)
