"""A fake TensorRT module that needs no GPU, for the tests of the engine modules.

It has the part of TensorRT's API that the package calls. A test compares its names with those of
the real TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx


class FakeTensorRT:
    """TensorRT's API, with attributes by which a test sets the outcome of calls.

    An engine sums each channel of an image. It reads and writes memory at the tensors' addresses.
    """

    __name__ = "tensorrt"

    def __init__(self) -> None:
        self.__version__ = "11.4.0"
        self.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"STRONGLY_TYPED": 1})
        self.BuilderFlag = enum.IntEnum("BuilderFlag", {"TF32": 6, "REFIT": 3})
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})
        self.ILogger.__init__ = lambda log: None
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda monitor: None})
        self.calls: dict[str, Any] = {}
        self.parser_errors: list[Any] = []
        self.has_driver = True
        self.plan: bytes | None = b"plan"
        self.build_error = "no tactic fits"
        self.before_build: Callable[[Any], None] = lambda config: None
        self.accepted_timing_caches = (b"",)
        self.batches: list[int] = []
        self.has_context_memory = True

    @property
    def classes(self) -> list[type]:
        """The fake classes below, named like the real ones."""
        fakes = (
            Builder,
            OnnxParser,
            ParserError,
            ITensor,
            INetworkDefinition,
            IOptimizationProfile,
            IBuilderConfig,
            ITimingCache,
            Runtime,
            ICudaEngine,
            IExecutionContext,
        )
        return list(fakes)

    def ParserError(self, *values: str) -> ParserError:  # noqa: N802
        return ParserError(*values)

    def Builder(self, log):  # noqa: N802
        if not self.has_driver:
            log.log(1, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Builder(self, log)

    def OnnxParser(self, network, log):  # noqa: N802
        return OnnxParser(network, self.parser_errors)

    def Runtime(self, log):  # noqa: N802
        return Runtime(self, log)


class Builder:
    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        self._trt, self._log = trt, log

    def create_network(self, flags):
        self._trt.calls["flags"] = flags
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        self._trt.before_build(config)
        if self._trt.plan is None:
            self._log.log(1, self._trt.build_error)
            return None
        shapes = config.profile.shapes
        return b"%s %s" % (self._trt.plan, repr(shapes).encode())


class OnnxParser:
    def __init__(self, network: INetworkDefinition, errors: list[Any]) -> None:
        self._network, self._errors = network, errors

    def parse(self, data):
        graph = onnx.load_from_string(data).graph
        self._network._inputs = [_tensor(value) for value in graph.input]
        self._network._outputs = [_tensor(value) for value in graph.output]
        return not self._errors

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, number):
        return self._errors[number]


class ParserError:
    def __init__(self, code: str, desc: str, node_name: str = "", node_operator: str = "") -> None:
        self._code, self._desc = SimpleNamespace(name=code), desc
        self._name, self._operator = node_name, node_operator

    def code(self):
        return self._code

    def desc(self):
        return self._desc

    def node_name(self):
        return self._name

    def node_operator(self):
        return self._operator


class ITensor:
    name: str
    dtype: Any
    shape: tuple[int, ...]

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, SimpleNamespace(name=dtype), shape


def _tensor(value: onnx.ValueInfoProto) -> ITensor:
    tensor_type = value.type.tensor_type
    names = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.INT64: "INT64"}
    dtype = names[tensor_type.elem_type]
    shape = tuple(dim.dim_value or -1 for dim in tensor_type.shape.dim)
    return ITensor(value.name, dtype, shape)


class INetworkDefinition:
    _inputs: list[ITensor]
    _outputs: list[ITensor]

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, number):
        return self._inputs[number]

    def get_output(self, number):
        return self._outputs[number]


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name, *shapes):
        self.shapes[name] = shapes


class IBuilderConfig:
    progress_monitor: Any

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt, self._workspace = trt, 1 << 36
        self._cache: ITimingCache | None = None
        self._flags = {trt.BuilderFlag.TF32}  # the library's default

    def add_optimization_profile(self, profile):
        self.profile = profile
        self._trt.calls["profile"] = profile.shapes
        return 0

    def set_memory_pool_limit(self, pool, limit):
        assert pool == "workspace"
        self._workspace = limit

    def get_memory_pool_limit(self, pool):
        assert pool == "workspace"
        return self._workspace

    def get_flag(self, flag):
        return flag in self._flags

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def create_timing_cache(self, data):
        return ITimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self._cache = cache if cache.data in self._trt.accepted_timing_caches else self._cache
        self._trt.calls.setdefault("timing_caches", []).append(cache.data)
        return self._cache is cache

    def get_timing_cache(self):
        return self._cache


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self):
        return self.data + b"+"


class Runtime:
    def __init__(self, trt: FakeTensorRT, log: Any) -> None:
        self._trt, self._log = trt, log

    def deserialize_cuda_engine(self, plan):
        if self._trt.has_driver and plan.startswith(b"plan"):
            return ICudaEngine(self._trt, self._log, eval(plan.removeprefix(b"plan ")))
        self._log.log(1, "cudaError 35: no driver" if plan.startswith(b"plan") else "magicTag")
        return None


class ICudaEngine:
    def __init__(
        self, trt: FakeTensorRT, log: Any, shapes: dict[str, tuple[tuple[int, ...], ...]]
    ) -> None:
        self._trt, self._log, self._shapes = trt, log, shapes

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        return self._shapes[name]

    def create_execution_context(self):
        if self._trt.has_context_memory:
            return IExecutionContext(self._trt, self._shapes)
        self._log.log(1, "out of memory")
        return None


class IExecutionContext:
    def __init__(self, trt: FakeTensorRT, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> None:
        self._trt, self._profile = trt, shapes
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name, shape):
        low, _, high = self._profile[name]
        self._shapes[name] = shape
        return low <= shape <= high and shape[1:] == low[1:]

    def get_tensor_shape(self, name):
        assert name == "features"
        return (self._shapes["images"][0], 3)

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle == 7
        images, features = self._at("images", self._shapes["images"]), self._at("features", None)
        features[:] = images.sum(axis=(2, 3))
        self._trt.batches.append(len(images))
        return True

    def _at(self, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
        shape = shape or self.get_tensor_shape(name)
        pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)
