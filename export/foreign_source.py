"""An ONNX file of others as the source of an export.

Its graph is kept. In front of it come the nodes that turn our input, normalised RGB [batch, 3, H,
W], into its own: channels reversed, or last, or uint8. Behind it the vectors are flattened to
[batch, F]. Mean and deviation stay outside, in the manifest, in units of pixels in 0..1. The file
then runs wherever an export runs, and its other precisions are derived like ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from export.cost import model_cost
from export.onnx_export import INPUT, OPSET, OUTPUT, file_metadata
from export.onnx_inference import run_session
from export.source import ExportSource
from pivl_distill.errors import PivlError
from pivl_distill.foreign import FileForward
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runtime.onnx_file import OnnxFile
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.storage.files import write_bytes

MIN_OPSET = 13
"""Earlier operator sets cannot quantise weights per channel."""
_PREFIX = "foreign"
"""Names of added and renamed tensors begin with this."""


def foreign_source(network: LoadedNetwork) -> ExportSource:
    """Return an ONNX file that `load_foreign` opened as a source.

    Raises PivlError if it is no ONNX file, or one that cannot be brought into our form.
    """
    forward = network.forward
    assert isinstance(forward, FileForward)
    assert network.space is not None
    if network.path.suffix != ".onnx":
        raise PivlError(
            f"{network.path} is an OpenVINO IR, which cannot be written as ONNX; export the ONNX"
            " file that it was converted from. `evaluate`, `bench` and `embed` take the IR."
        )
    graph = _load(network.path, forward)
    cost = model_cost(graph)
    _wrap(graph, network, forward)
    content = graph.SerializeToString()
    _check_batches(content, network)

    def write(path: Path, *, normalize: bool, bake_preprocessing: bool) -> Path:
        if normalize or bake_preprocessing:
            raise ValueError("The graph of a network of others is kept as it is.")
        write_bytes(path, content)
        return path

    return ExportSource(network.model, write, cost, network.space, _opset(graph), forward)


def _opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators; 0 if the graph has none of them."""
    return {entry.domain: entry.version for entry in model.opset_import}.get("", 0)


def _load(path: Path, forward: FileForward) -> onnx.ModelProto:
    """Read a file whose size and tensors were checked when it was opened; tidy its graph."""
    try:
        model = onnx.load(path)
        _keep_output(model.graph, forward.graph.outputs[forward.output].name)
        model = _convert(model, path)
    except PivlError:
        raise
    except Exception as error:  # protobuf, onnx and numpy each have their own
        raise PivlError(f"{path} cannot be read by the onnx package: {error}") from error
    _lift_constants(model.graph)
    halves = [i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT16]
    if halves or forward.graph.inputs[0].dtype == "float16":
        raise PivlError(
            f"{path} is in half precision; export its float32 file with --precision fp16 instead."
        )
    return model


def _keep_output(graph: onnx.GraphProto, output: str) -> None:
    """Drop what only other outputs need, and weights that are listed among the inputs."""
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    needed, nodes = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            needed.update(*(_outer_names(a.g) for a in node.attribute if a.HasField("g")))
    used = [weight for weight in graph.initializer if weight.name in needed]
    chosen = [value for value in graph.output if value.name == output]
    for field, kept in (("node", nodes[::-1]), ("initializer", used), ("output", chosen)):
        values = [type(value).FromString(value.SerializeToString()) for value in kept]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(values)


def _outer_names(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that the nodes of a subgraph read; some may be of the graph around it."""
    return {name for node in graph.node for name in node.input}


def _convert(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the model in our operator set, or in its own if that cannot be converted.

    Raises PivlError if its own is too old for the other precisions.
    """
    own = _opset(model)
    if own >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own
        if own < MIN_OPSET:
            raise PivlError(
                f"{path} has the operator set {own}, which cannot be converted to {OPSET}"
                f" ({error}); export it again with opset {MIN_OPSET} or later."
            ) from error
        return model


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initialisers, where other precisions expect weights."""
    nodes = []
    for node in graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != "Constant" or not values.keys() <= {"value", *_KINDS}:
            nodes.append(node)
            continue
        ((kind, value),) = values.items()
        tensor = onnx.TensorProto()
        if kind == "value":
            tensor.CopyFrom(value)
        else:
            tensor.CopyFrom(numpy_helper.from_array(np.array(value, _KINDS[kind])))
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


_KINDS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Attributes of Constant nodes other than tensors, with their types."""


def _wrap(model: onnx.ModelProto, network: LoadedNetwork, forward: FileForward) -> None:
    """Put our input before the graph and our output behind it, in place."""
    graph = model.graph
    own_input, own_output = f"{_PREFIX}_input", f"{_PREFIX}_output"
    _rename(graph, graph.input[0].name, own_input)
    _rename(graph, graph.output[0].name, own_output)
    for name in (INPUT, OUTPUT):  # tensors inside that have the names of ours
        _rename(graph, name, f"{_PREFIX}_inner_{name}")
    before, tensor = [], INPUT

    def add(operator: str, *inputs: str, **attributes: object) -> None:
        nonlocal tensor
        output = f"{_PREFIX}_{operator.lower()}"
        before.append(
            helper.make_node(operator, [tensor, *inputs], [output], name=output, **attributes)
        )
        tensor = output

    if forward.bgr:
        order = numpy_helper.from_array(np.array([2, 1, 0]), f"{_PREFIX}_channels")
        graph.initializer.append(order)
        add("Gather", order.name, axis=1)
    if forward.channels_last:
        add("Transpose", perm=[0, 2, 3, 1])
    if forward.graph.inputs[0].dtype == "uint8":
        add("Round")
        add("Cast", to=TensorProto.UINT8)
    add("Identity")
    before[-1].output[0] = own_input
    flatten = helper.make_node("Flatten", [own_output], [OUTPUT], name=f"{_PREFIX}_flatten", axis=1)
    nodes = [*before, *graph.node, flatten]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    height, width = network.model.size_hw
    shapes = {INPUT: ["batch", 3, height, width], OUTPUT: ["batch", network.dim]}
    ours = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    graph.input.append(ours[INPUT])
    graph.output.append(ours[OUTPUT])
    assert network.space is not None
    facts = file_metadata(network.model, network.space, normalize=False, bake_preprocessing=False)
    helper.set_model_props(model, facts)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor: a weight, and what nodes of the graph and of subgraphs read or write."""
    for weight in graph.initializer:
        weight.name = new if weight.name == old else weight.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)


def _check_batches(content: bytes, network: LoadedNetwork) -> None:
    """Raise PivlError if the graph takes only the batch size that it was exported with."""
    session = open_session(OnnxFile(network.path, content))
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        crops = rng.integers(0, 256, (batch, *network.model.size_hw, 3), np.uint8)
        try:
            features = run_session(session, network.model.preprocess(crops))
        except PivlError as error:
            raise PivlError(
                f"{network.path} cannot run a batch of {batch}: its graph has a fixed batch size;"
                f" export it again with a dynamic batch axis. {error}"
            ) from error
        if features.shape != (batch, network.dim):
            raise PivlError(
                f"{network.path} returns {list(features.shape)} for a batch of {batch}: its graph"
                " has a fixed batch size; export it again with a dynamic batch axis."
            )
