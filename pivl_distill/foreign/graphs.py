"""An ONNX file or an OpenVINO IR: its inputs and outputs, and a function from array to array.

ONNX Runtime and OpenVINO are imported when a file needs them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pivl_distill.errors import PivlError
from pivl_distill.storage.readers import parse_json
from pivl_distill.vectors.space import COMPATIBLE_KEY, VectorSpace, space_from_metadata

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice

ONNX_SUFFIX, OPENVINO_SUFFIX = NETWORK_SUFFIXES = (".onnx", ".xml")
ONNX_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
OPENVINO_TYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}


@dataclass(frozen=True)
class Port:
    """An input or output: its name, its element type, and its shape, where None is any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """None: not even the number of axes is fixed."""

    def __str__(self) -> str:
        axes = ["?" if size is None else str(size) for size in self.shape or ()]
        return f"'{self.name}' {self.dtype} [{', '.join(axes) if self.shape else '...'}]"


class Graph(ABC):
    """A network in a file, opened by the library that runs it."""

    inputs: list[Port]
    outputs: list[Port]
    space: VectorSpace | None = None
    """Of its vectors, if the file names it, as our exports do."""

    @abstractmethod
    def run(self, images: np.ndarray, output: int) -> np.ndarray:
        """Return output number `output` of the only input's value `images`.

        Any exception means that the graph cannot run on this value.
        """


class OnnxGraph(Graph):
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, device: ExecutionDevice) -> None:
        from pivl_distill.runtime.onnx_session import PROVIDERS, open_session

        self._session = open_session(
            path,
            threads=torch.get_num_threads(),
            providers=[PROVIDERS[device]],
            external_data=True,
        )
        self.inputs = [self._port(info) for info in self._session.get_inputs()]
        self.outputs = [self._port(info) for info in self._session.get_outputs()]
        self.space = self._find_space(path)

    def _find_space(self, path: Path) -> VectorSpace | None:
        """Return the space in the metadata of an export that lies without its manifest."""
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            if COMPATIBLE_KEY in metadata:
                metadata[COMPATIBLE_KEY] = parse_json(metadata[COMPATIBLE_KEY])
            return space_from_metadata(metadata)
        except ValueError as error:
            raise PivlError(f"{path} has damaged metadata: {error}; export it again.") from error

    @staticmethod
    def _port(info: Any) -> Port:
        shape = tuple(size if isinstance(size, int) else None for size in info.shape)
        return Port(info.name, ONNX_TYPES.get(info.type, info.type), shape or None)

    def run(self, images: np.ndarray, output: int) -> np.ndarray:
        name = self.outputs[output].name
        return np.asarray(self._session.run([name], {self.inputs[0].name: images})[0])


class OpenVinoGraph(Graph):
    """An OpenVINO IR, .xml beside .bin, on the CPU."""

    def __init__(self, path: Path) -> None:
        from pivl_distill.runtime.openvino_session import compile_network

        self._compiled = compile_network(path, torch.get_num_threads())
        self.inputs = [self._port(port) for port in self._compiled.inputs]
        self.outputs = [self._port(port) for port in self._compiled.outputs]

    @staticmethod
    def _port(port: Any) -> Port:
        name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
        axes = None if port.partial_shape.rank.is_dynamic else port.partial_shape
        shape = axes and tuple(None if axis.is_dynamic else axis.get_length() for axis in axes)
        element = port.element_type.get_type_name()
        return Port(name, OPENVINO_TYPES.get(element, element), shape or None)

    def run(self, images: np.ndarray, output: int) -> np.ndarray:
        return np.asarray(self._compiled([images])[output])


def check_network_file(path: Path) -> None:
    """Raise PivlError unless `path` is a file with the name of an ONNX file or OpenVINO IR."""
    if path.suffix not in NETWORK_SUFFIXES:
        raise PivlError(f"{path} is neither an ONNX file (.onnx) nor an OpenVINO IR (.xml).")
    if not path.is_file():
        raise PivlError(f"There is no ONNX file or OpenVINO IR at {path}.")


def open_graph(path: Path, device: ExecutionDevice = "cpu") -> Graph:
    """Open an ONNX file on `device` or an OpenVINO IR on the CPU, with torch's number of threads.

    Raises PivlError if there is no such file, if it cannot be loaded, or if openvino is missing.
    """
    check_network_file(path)
    if path.suffix == ONNX_SUFFIX:
        return OnnxGraph(path, device)
    if device == "cuda":
        raise PivlError(f"OpenVINO runs {path} on the CPU only; remove --device cuda.")
    return OpenVinoGraph(path)
