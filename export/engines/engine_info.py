"""Describe an engine file: its name, its batch sizes, and its sidecar `<engine>.json`.

An engine is opaque, and loads only with the library version that built it and on the kind of GPU it
was built for. The sidecar allows checking this before loading, with clear error messages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import onnx
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from export.accuracy import ExportPrecision
from export.engines.library import EngineLibrary
from pivl_distill.errors import PivlError, list_mistakes
from pivl_distill.storage.files import sha256, write_text
from pivl_distill.storage.limits import MAX_JSON_BYTES
from pivl_distill.storage.readers import read_bytes

RTX_GPUS = "compute capabilities 7.5, 8.0 to 8.9 but not 8.7, and 12.x"
"""GPUs that TensorRT-RTX supports: GeForce and RTX cards, not the H100 (9.0) or Orin (8.7)."""
_SUFFIXES: dict[EngineLibrary, str] = {"tensorrt": ".engine", "tensorrt-rtx": ".rtx.engine"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchProfile(_Section):
    """Batch sizes that an engine accepts, `min_batch` to `max_batch`; optimised for `opt_batch`."""

    min_batch: int
    opt_batch: int
    max_batch: int

    @classmethod
    def parse(cls, text: str) -> BatchProfile:
        """Parse "min,opt,max". Raises PivlError unless 1 ≤ min ≤ opt ≤ max.

        >>> Profile.parse("1,8,64").max_batch
        64
        """
        if not re.fullmatch(r"\d+,\d+,\d+", text):
            raise PivlError(f"Batches are min,opt,max, such as 1,8,64; got '{text}'.")
        low, best, high = (int(number) for number in text.split(","))
        if not 1 <= low <= best <= high:
            raise PivlError(f"Batches must rise from 1 or more, min ≤ opt ≤ max; got '{text}'.")
        return cls(min_batch=low, opt_batch=best, max_batch=high)

    @property
    def batches(self) -> tuple[int, int, int]:
        return self.min_batch, self.opt_batch, self.max_batch


class TensorInfo(_Section):
    """An input or output: TensorRT's name of its dtype, and its shape with -1 for the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Gpu(_Section):
    """Name and compute capability ("major.minor") of a GPU."""

    name: str
    compute_capability: str

    @classmethod
    def current(cls) -> Gpu | None:
        """Return the current GPU of torch; None if there is none."""
        if not torch.cuda.is_available():
            return None
        major, minor = torch.cuda.get_device_capability()
        return cls(name=torch.cuda.get_device_name(), compute_capability=f"{major}.{minor}")

    def supports(self, library: EngineLibrary) -> bool:
        """Whether the library runs on this GPU; see `RTX_GPUS` for TensorRT-RTX."""
        if library == "tensorrt":
            return True
        major = self.compute_capability.partition(".")[0]
        rtx = major in ("8", "12") and self.compute_capability != "8.7"
        return rtx or self.compute_capability == "7.5"


class EngineInfo(_Section):
    """Contents of the sidecar. `gpu` is None if TensorRT-RTX built the engine without one."""

    format: Literal[1] = 1
    library: EngineLibrary
    library_version: str
    precision: ExportPrecision
    flags: tuple[str, ...]
    profile: BatchProfile
    workspace_bytes: int
    inputs: tuple[TensorInfo, ...]
    output: TensorInfo
    onnx_file: str
    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    gpu: Gpu | None
    build_seconds: float
    metadata: dict[str, str]


def engine_path(onnx_path: Path, precision: ExportPrecision, library: EngineLibrary) -> Path:
    """Return the path of an ONNX file's engine: next to it, with precision and library.

    >>> engine_path(Path("model.int8.trt.onnx"), "int8", "tensorrt-rtx").name
    'model.int8.rtx.engine'
    """
    stem = re.sub(r"(\.(fp32|fp16|int8)(\.\w+)?)?\.onnx$", "", onnx_path.name)
    return onnx_path.with_name(f"{stem}.{precision}{_SUFFIXES[library]}")


def graph_precision(graph: onnx.GraphProto) -> ExportPrecision:
    """Return the precision of a graph, which is also that of its strongly typed engine.

    int8 if a node quantises, else fp16 if weights are half precision, else fp32.
    """
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    halves = (tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return "fp16" if any(halves) else "fp32"


def write_sidecar(path: Path, info: EngineInfo) -> None:
    """Write the sidecar of the engine at `path`, atomically."""
    write_text(_sidecar(path), info.model_dump_json(indent=2) + "\n")


def read_sidecar(path: Path) -> EngineInfo:
    """Read the sidecar of the engine at `path`.

    Raises PivlError if a file is missing or the sidecar describes another engine.
    """
    sidecar = _sidecar(path)
    for file in (path, sidecar):
        if not file.is_file():
            raise PivlError(f"There is no '{file}'; an engine and its .json belong together.")
    try:
        info = EngineInfo.model_validate_json(read_bytes(sidecar, MAX_JSON_BYTES))
    except ValidationError as error:
        mistakes = list_mistakes((mistake["loc"], mistake["msg"]) for mistake in error.errors())
        raise PivlError(
            f"'{sidecar}' describes no engine of this version; build it again.\n{mistakes}"
        ) from error
    if sha256(path) != info.engine_sha256:
        raise PivlError(f"'{path}' is not the engine that its .json describes; build it again.")
    return info


def remove_engine(path: Path) -> None:
    """Remove an engine and its sidecar."""
    for file in (path, _sidecar(path)):
        file.unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
