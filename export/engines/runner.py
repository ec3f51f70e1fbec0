"""Run an engine on torch's CUDA tensors; no other CUDA binding is needed.

The sidecar is checked before loading, because TensorRT's own errors for a wrong version or GPU are
hard to understand.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.engines.engine_info import RTX_GPUS, EngineInfo, Gpu, TensorInfo, read_sidecar
from export.engines.library import LIBRARY_TITLES, load_tensorrt, shared_logger
from pivl_distill.errors import PivlError

logger = logging.getLogger(__name__)

DEVICE = torch.device("cuda")

_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
}


class EngineRunner:
    """The forward pass of the engine at `path` on the current GPU; not thread-safe.

    Raises PivlError if the engine is damaged, was built by another version or for another GPU, or
    if there is no GPU.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.info = path, read_sidecar(path)
        trt = _check_version(path, self.info)
        _check_gpu(path, self.info)
        self._log = shared_logger(trt)
        self._runtime, self._engine = _load(trt, path)  # an engine needs its runtime alive
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise PivlError(
                f"'{path}' cannot be prepared for running: {self._messages()}. Free GPU memory, or"
                " build it again with a smaller --batch."
            )
        self._stream = torch.cuda.Stream()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return features [B, F], on the GPU, of images [B, 3, H, W] and, optionally, cameras [B].

        Inputs may be on any device; cameras are int64 ids. A batch above the engine's maximum is
        split; one below its minimum is padded. Raises PivlError for inputs of the wrong shape or
        type, and if the engine fails to run.
        """
        for expected, given in zip(self.info.inputs, inputs, strict=True):
            _check_input(expected, given)
        parts = math.ceil(len(inputs[0]) / self.info.profile.max_batch)
        chunks = zip(*(tensor.tensor_split(parts) for tensor in inputs), strict=True)
        return torch.cat([self._run(chunk) for chunk in chunks])

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        batch, smallest = len(inputs[0]), self.info.profile.min_batch
        placed = [_padded(tensor.to(DEVICE), smallest).contiguous() for tensor in inputs]
        for info, tensor in zip(self.info.inputs, placed, strict=True):
            if not self._context.set_input_shape(info.name, tuple(tensor.shape)):
                raise PivlError(self._beyond_profile(info.name, len(tensor)))
            self._context.set_tensor_address(info.name, tensor.data_ptr())
        output = self.info.output
        shape = tuple(self._context.get_tensor_shape(output.name))
        features = torch.empty(shape, dtype=_DTYPES[output.dtype], device=DEVICE)
        self._context.set_tensor_address(output.name, features.data_ptr())
        # TensorRT is slower on the default stream; its own stream is synchronised with torch's.
        self._stream.wait_stream(torch.cuda.current_stream())
        started = self._context.execute_async_v3(self._stream.cuda_stream)
        torch.cuda.current_stream().wait_stream(self._stream)
        if not started:
            raise PivlError(f"'{self.path}' could not be run: {self._messages()}.")
        return features[:batch]

    def _beyond_profile(self, name: str, batch: int) -> str:
        low, _, high = (shape[0] for shape in self._engine.get_tensor_profile_shape(name, 0))
        return (
            f"'{self.path}' takes batches {low} to {high}, not {batch}: build it again with --batch"
            f" {min(low, batch)},{batch},{max(high, batch)}."
        )

    def _messages(self) -> str:
        """Return the library's error messages since the last call."""
        return self._log.drain() or f"{LIBRARY_TITLES[self.info.library]} gives no reason"


def check_engine_loads(path: Path) -> bool:
    """Load the engine at `path` to check it; return whether it loaded completely.

    Without a GPU the library only checks the header and length, then fails for lack of a driver;
    the result is False. Raises PivlError if the engine is damaged or from another version.
    """
    info = read_sidecar(path)
    trt = _check_version(path, info)
    try:
        _, engine = _load(trt, path)
    except _NoDriverError:
        return False
    for tensor in info.inputs:
        shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, 0)]
        if shapes != [(batch, *tensor.shape[1:]) for batch in info.profile.batches]:
            raise PivlError(f"'{path}' takes '{tensor.name}' of {shapes}, not what its .json says.")
    return True


class _NoDriverError(PivlError):
    """Only the driver is missing; the part of the engine that was read is valid."""


def _check_version(path: Path, info: EngineInfo) -> Any:
    """Return the library that built the engine. Raises PivlError if the version differs."""
    trt = load_tensorrt(info.library)
    if trt.__version__ != info.library_version:
        raise PivlError(
            f"'{path}' was built by {LIBRARY_TITLES[info.library]} {info.library_version}, but "
            f"{trt.__version__} is installed, and engines load only with their own version. Build "
            f"it again from {info.onnx_file}."
        )
    return trt


def _check_gpu(path: Path, info: EngineInfo) -> None:
    gpu = Gpu.current()
    if gpu is None:
        raise PivlError(
            f"'{path}' runs on an NVIDIA GPU, and torch finds none here: install the driver and a "
            "torch with CUDA, or run the ONNX file."
        )
    if not gpu.supports(info.library):
        raise PivlError(
            f"'{path}' does not run on {gpu.name} (compute capability {gpu.compute_capability}):"
            f" TensorRT-RTX takes {RTX_GPUS}. Build it with --trt, or run the ONNX file."
        )
    built_on = info.gpu
    if info.library == "tensorrt-rtx" or built_on is None:
        return  # TensorRT-RTX compiles for the GPU it meets
    if built_on.compute_capability != gpu.compute_capability:
        raise PivlError(
            f"'{path}' was built on {built_on.name} (compute capability "
            f"{built_on.compute_capability}), but this is {gpu.name} ({gpu.compute_capability}). "
            f"Build it again here from {info.onnx_file}."
        )
    if built_on.name != gpu.name:
        logger.warning(f"'{path}' was built on {built_on.name}; on {gpu.name} it may be slower.")


def _load(trt: Any, path: Path) -> tuple[Any, Any]:
    """Return runtime and engine."""
    log = shared_logger(trt)
    log.drain()
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # how the bindings report that there is no runtime
        raise _NoDriverError(f"'{path}' needs an NVIDIA GPU: {log.drain() or error}.") from error
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        words = log.drain()
        error_type = _NoDriverError if _only_cuda(words) else PivlError
        raise error_type(f"'{path}' cannot be loaded: {words}. Build it again on this machine.")
    return runtime, engine


def _only_cuda(words: str) -> bool:
    """Whether all messages are about a missing CUDA driver."""
    return all("cudaError" in word for word in words.split("; "))


def _padded(tensor: Tensor, batch: int) -> Tensor:
    """Pad the tensor to `batch` rows by repeating its last row."""
    missing = batch - len(tensor)
    if missing <= 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


def _check_input(expected: TensorInfo, given: Tensor) -> None:
    dtype = _DTYPES[expected.dtype]
    if tuple(given.shape[1:]) != expected.shape[1:] or given.dtype != dtype or not len(given):
        shape = ", ".join(("batch", *map(str, expected.shape[1:])))
        raise PivlError(
            f"The engine's '{expected.name}' are {dtype} [{shape}], not {given.dtype} "
            f"{list(given.shape)}."
        )
