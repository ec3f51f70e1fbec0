"""OpenVINO on the CPU behind the methods of ONNX Runtime's sessions that are used here.

Computed in float32: on some processors OpenVINO's default is bfloat16, which changes vectors by
several per cent without a word. The package is imported when an IR is opened.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_ONNX_BYTES
from pivl_distill.storage.readers import check_inside, check_size

ELEMENT_TYPES = {
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
    "u8": "tensor(uint8)",
    "i64": "tensor(int64)",
}
"""OpenVINO's names of element types → ONNX Runtime's."""


@dataclass(frozen=True)
class OpenVinoFile:
    """An OpenVINO IR whose two files were read, for example to verify them."""

    path: Path
    model: bytes
    weights: bytes


@dataclass(frozen=True)
class Port:
    """An input or output: its name, its type, and its shape, where "?" is any size."""

    name: str
    type: str
    shape: tuple[int | str, ...]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless a value of this shape fits."""
        fits = len(shape) == len(self.shape) and all(
            size > 0 and fixed in ("?", size) for size, fixed in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"'{self.name}' takes {list(self.shape)}, not {list(shape)}")


class OpenVinoSession:
    """A compiled IR; `run` may be called by several threads at once."""

    def __init__(self, network: Path | OpenVinoFile, threads: int | None = None) -> None:
        """Open an IR with this many threads per call; None leaves the number to OpenVINO.

        Raises PivlError if openvino is not installed, or the IR cannot be loaded.
        """
        self._compiled = compile_network(network, threads)
        self._inputs = [_port(port) for port in self._compiled.inputs]
        self._requests = threading.local()

    def get_inputs(self) -> list[Port]:
        """The inputs, in order."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """The outputs, in order."""
        return [_port(port) for port in self._compiled.outputs]

    def run(self, names: Sequence[str] | None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of these names, or all; any exception means that it cannot run."""
        for port in self._inputs:  # OpenVINO ignores a tensor of another shape without a word
            port.check(feed[port.name].shape)
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        results = self._requests.own.infer(dict(feed))
        wanted = (
            self._compiled.outputs if names is None else list(map(self._compiled.output, names))
        )
        return [np.array(results[port]) for port in wanted]


def compile_network(network: Path | OpenVinoFile, threads: int | None) -> Any:
    """Return OpenVINO's compiled model of an IR; arguments and errors as for `OpenVinoSession`."""
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    core, path = shared_core(import_openvino()), network
    hint = ""
    try:
        if isinstance(network, OpenVinoFile):
            path = network.path
            model = core.read_model(model=network.model, weights=network.weights)
        else:
            check_size(network, MAX_ONNX_BYTES)
            weights = network.with_suffix(".bin")
            check_inside(weights)
            hint = "" if weights.is_file() else f"; {weights.name} is not beside it"
            model = core.read_model(network)
        return core.compile_model(model, "CPU", properties)
    except RuntimeError as error:  # the base of OpenVINO's exceptions
        raise PivlError(f"OpenVINO cannot load {path}{hint}: {error}") from error


@functools.cache
def shared_core(openvino: ModuleType) -> Any:
    """Return the core of the package, one for the process, that compiles every network.

    Each core replaces the main thread's signal stack, and puts the one before it back at its end.
    If two end in the order in which they began, the stack of the first stays in place after it was
    freed, and the next signal, such as SIGTERM, ends the process with a segmentation fault.
    """
    return openvino.Core()


def import_openvino() -> ModuleType:
    """Return the module; raises PivlError with the command that installs it."""
    try:
        import openvino
    except ImportError as error:
        raise PivlError(
            "OpenVINO IRs (.xml) need openvino: `pip install 'pivl-distill[openvino]'`."
        ) from error
    return openvino


def _port(port: Any) -> Port:
    name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
    kind = port.element_type.get_type_name()
    shape = ["?" if axis.is_dynamic else int(axis.get_length()) for axis in port.partial_shape]
    return Port(name, ELEMENT_TYPES.get(kind, kind), tuple(shape))
