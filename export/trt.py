"""A TensorRT or TensorRT-RTX engine from an ONNX file; one builder for versions 10, 11 and RTX.

TensorRT 11 has no precision flags: precision is what the ONNX file says. Networks are strongly
typed where that must still be asked for. An RTX plan is no TensorRT plan: it loads only with
TensorRT-RTX, on GeForce and RTX cards, so its file is named `.rtx.engine`.

Left out on purpose: TensorRT 8 (weakly typed), INT8 calibration (gone in 11), and running engines.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx

from export.manifest import sha256
from pivl_distill.errors import PivlError
from pivl_distill.files import write_bytes, write_json

Library = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_NAMES: dict[Library, str] = {
    "tensorrt": "model.engine",
    "tensorrt-rtx": "model.rtx.engine",
}
_RTX_LIBRARIES = ("libtensorrt_rtx.so.1.*", "libtensorrt_onnxparser_rtx.so.1.*")


@dataclass(frozen=True)
class EngineInfo:
    """What the plan itself cannot say; written beside it as `<engine>.json`."""

    onnx_sha256: str
    engine_sha256: str
    tensorrt_module: str
    tensorrt_version: str
    min_batch: int
    opt_batch: int
    max_batch: int
    metadata: dict[str, str]


def find_tensorrt(onnx_path: Path) -> tuple[ModuleType, Library]:
    """The installed TensorRT, or else TensorRT-RTX; PivlError if there is neither."""
    if importlib.util.find_spec("tensorrt"):
        try:
            return importlib.import_module("tensorrt"), "tensorrt"
        except (ImportError, OSError) as error:
            raise PivlError(f"TensorRT is installed but does not load: {error}") from error
    bindings = importlib.util.find_spec("tensorrt_rtx_bindings")
    libraries = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if bindings and libraries and libraries.submodule_search_locations:
        folder = Path(libraries.submodule_search_locations[0])
        for pattern in _RTX_LIBRARIES:
            # The bindings look their libraries up by name, so they must be in memory before.
            for library in sorted(folder.glob(pattern))[-1:]:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        try:
            return importlib.import_module("tensorrt_rtx_bindings"), "tensorrt-rtx"
        except (ImportError, OSError) as error:
            raise PivlError(f"TensorRT-RTX is installed but does not load: {error}") from error
    raise PivlError(
        f"TensorRT is not installed. The ONNX file is kept at {onnx_path} and can be used as it "
        "is. For an engine run `pip install 'pivl-distill[trt]'` (NVIDIA GPUs) or "
        "`pip install 'pivl-distill[rtx]'` (GeForce and RTX cards), then export again."
    )


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    trt: Any,
    *,
    min_batch: int = 1,
    opt_batch: int = 8,
    max_batch: int = 64,
    workspace_bytes: int = 1 << 30,
) -> EngineInfo:
    """Build an engine for batches of `min_batch` to `max_batch`, fastest at `opt_batch`.

    `trt` is the module that `find_tensorrt` returned. Raises PivlError with TensorRT's own words.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise PivlError(f"TensorRT cannot read '{onnx_path}': {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = builder.create_optimization_profile()
    for taken in (network.get_input(number) for number in range(network.num_inputs)):
        shapes = [(batch, *taken.shape[1:]) for batch in (min_batch, opt_batch, max_batch)]
        profile.set_shape(taken.name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PivlError(
            f"TensorRT could not build an engine from '{onnx_path}'; its log above says why. "
            "The ONNX file is kept."
        )
    write_bytes(engine_path, bytes(memoryview(plan)))
    info = EngineInfo(
        onnx_sha256=sha256(onnx_path),
        engine_sha256=sha256(engine_path),
        tensorrt_module=trt.__name__,
        tensorrt_version=trt.__version__,
        min_batch=min_batch,
        opt_batch=opt_batch,
        max_batch=max_batch,
        metadata={p.key: p.value for p in onnx.load(onnx_path).metadata_props},
    )
    write_json(engine_path.with_name(f"{engine_path.name}.json"), asdict(info))
    return info


def _creation_flags(trt: Any) -> int:
    """By name: the bit that asked for explicit batches in TensorRT 8 means strong typing since."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)
