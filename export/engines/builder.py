"""Build an engine from an ONNX file, with TensorRT 10 or 11 or with TensorRT-RTX.

Networks are strongly typed (TensorRT 11 supports nothing else), so the ONNX file determines the
precision. Flags are looked up by name, because their values differ between versions.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import onnx

from export.accuracy import ExportPrecision
from export.engines.build_progress import progress_monitor
from export.engines.engine_info import (
    BatchProfile,
    EngineInfo,
    Gpu,
    TensorInfo,
    engine_path,
    graph_precision,
    write_sidecar,
)
from export.engines.library import LIBRARY_TITLES, EngineLibrary, load_tensorrt, shared_logger
from pivl_distill.console import watch
from pivl_distill.errors import PivlError
from pivl_distill.runtime.onnx_file import check_onnx_file
from pivl_distill.storage.cache_dir import cache_dir
from pivl_distill.storage.files import sha256, write_bytes

logger = logging.getLogger(__name__)


def build_engine(
    onnx_path: Path,
    library: EngineLibrary,
    profile: BatchProfile,
    *,
    workspace_bytes: int | None = None,
) -> tuple[Path, EngineInfo]:
    """Build the engine of `onnx_path` next to it, with its sidecar; return its path and sidecar.

    `workspace_bytes` limits the GPU memory per layer (None: no limit). TensorRT needs the GPU that
    the engine is for, TensorRT-RTX needs none. Raises PivlError, with nothing written, if the
    library is missing, finds no GPU, or rejects the graph.
    """
    trt = load_tensorrt(library)
    log = shared_logger(trt)
    log.drain()
    title = f"{LIBRARY_TITLES[library]} {trt.__version__}"
    model = _read_onnx(onnx_path)
    precision = graph_precision(model.graph)
    path = engine_path(onnx_path, precision, library)

    builder = _create_builder(trt, log, title)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, log)  # owns the weights: must outlive the build
    if not parser.parse(onnx_path.read_bytes()):
        raise PivlError(_parser_error_message(parser, onnx_path, title, precision))
    config = _builder_config(trt, builder, network, profile, workspace_bytes)
    timing_cache = _timing_cache_path(library, trt.__version__)
    description = f"Building {path.name}"
    plan, seconds = _timed_build(trt, builder, network, config, timing_cache, description)
    if plan is None:
        raise PivlError(f"{title} could not build an engine from '{onnx_path}': {log.drain()}.")
    write_bytes(path, plan)
    info = EngineInfo(
        library=library,
        library_version=trt.__version__,
        precision=precision,
        profile=profile,
        onnx_file=onnx_path.name,
        onnx_sha256=sha256(onnx_path),
        engine_sha256=sha256(path),
        engine_bytes=len(plan),
        gpu=Gpu.current(),
        build_seconds=round(seconds, 3),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        **_build_fields(trt, network, config),
    )
    write_sidecar(path, info)
    return path, info


def _build_fields(trt: Any, network: Any, config: Any) -> dict[str, Any]:
    """Return the fields of `EngineInfo` that network and builder configuration determine."""
    return {
        "flags": _flags(trt, config),
        "workspace_bytes": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "inputs": tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
        "output": _tensor(network.get_output(0)),
    }


def _read_onnx(path: Path) -> onnx.ModelProto:
    check_onnx_file(path)
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own exceptions have no public base class
        raise PivlError(f"'{path}' is not an ONNX file: {error}.") from error


def _create_builder(trt: Any, log: Any, title: str) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # how the bindings report that there is no builder
        raise PivlError(
            f"{title} needs the NVIDIA GPU that the engine is for, and its driver, and finds none "
            f"here: {log.drain() or error}. Build on the device itself; TensorRT-RTX (--rtx) "
            "builds without a GPU."
        ) from error


def _creation_flags(trt: Any) -> int:
    """Return the flag for strong typing, which TensorRT 10 needs and 11 has always on."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


def _parser_error_message(
    parser: Any, onnx_path: Path, title: str, precision: ExportPrecision
) -> str:
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    message = f"{title} cannot read '{onnx_path}': {'; '.join(map(_describe_error, errors))}."
    if precision == "int8":
        message += " It needs INT8 with signed activations and float biases, not the CPUs' form."
    return message


def _describe_error(error: Any) -> str:
    reason = " ".join(line for line in error.desc().split("\n") if "catchCudaError" not in line)
    if not error.node_operator():
        return reason
    return f"node '{error.node_name()}' ({error.node_operator()}), {error.code().name}: {reason}"


def _builder_config(
    trt: Any, builder: Any, network: Any, profile: BatchProfile, workspace_bytes: int | None
) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # less precise than the verified float32 file
    config.add_optimization_profile(_optimization_profile(builder, network, profile))
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    return config


def _optimization_profile(builder: Any, network: Any, profile: BatchProfile) -> Any:
    optimization = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shapes = ((batch, *tensor.shape[1:]) for batch in profile.batches)
        optimization.set_shape(tensor.name, *shapes)
    return optimization


def _flags(trt: Any, config: Any) -> tuple[str, ...]:
    """Return the names of the builder flags that are set: the library's defaults without TF32."""
    members = trt.BuilderFlag.__members__
    return tuple(sorted(name for name, flag in members.items() if config.get_flag(flag)))


def _tensor(tensor: Any) -> TensorInfo:
    return TensorInfo(name=tensor.name, dtype=tensor.dtype.name, shape=tuple(tensor.shape))


def _timed_build(
    trt: Any,
    builder: Any,
    network: Any,
    config: Any,
    timing_cache: Path | None,
    description: str,
) -> tuple[bytes | None, float]:
    """Build with the tactic timings of earlier builds; return the engine, or None, and seconds."""
    if timing_cache:
        _load_timing_cache(config, timing_cache)
    start = time.monotonic()
    plan = _build(trt, builder, network, config, description)
    seconds = time.monotonic() - start
    if timing_cache and plan is not None:
        _save_timing_cache(config, timing_cache)
    return plan, seconds


def _build(trt: Any, builder: Any, network: Any, config: Any, description: str) -> bytes | None:
    """Return the serialised engine, None if the build failed; Ctrl-C cancels the build."""
    with watch(description) as show:
        config.progress_monitor = monitor = progress_monitor(trt, show)
        plan = builder.build_serialized_network(network, config)
    if monitor.stopped:
        raise KeyboardInterrupt
    return None if plan is None else bytes(memoryview(plan))


def _timing_cache_path(library: EngineLibrary, version: str) -> Path | None:
    """Return the cache file of this version and GPU; None for TensorRT-RTX, which needs none."""
    gpu = Gpu.current()
    if library == "tensorrt-rtx" or gpu is None:
        return None
    name = re.sub(r"[^\w.]+", "-", f"{library}-{version}-{gpu.name}-{gpu.compute_capability}")
    return cache_dir() / "timings" / f"{name}.cache"


def _load_timing_cache(config: Any, path: Path) -> None:
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):  # from another GPU, or damaged
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing_cache(config: Any, path: Path) -> None:
    try:
        write_bytes(path, bytes(memoryview(config.get_timing_cache().serialize())))
    except OSError as error:
        logger.warning(f"The timing cache was not written, so the next build is as slow: {error}")
