"""Load TensorRT or TensorRT-RTX as a Python module and collect its error messages.

Both have the same API under different module names, but they are separate products: a TensorRT-RTX
engine loads only with TensorRT-RTX, on GeForce and RTX cards, and can be built without a GPU.

Left out on purpose: TensorRT 8, which is weakly typed and has its own INT8 calibration.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

from pivl_distill.errors import PivlError

EngineLibrary = Literal["tensorrt", "tensorrt-rtx"]
LIBRARY_TITLES: dict[EngineLibrary, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

_RTX_BINDINGS = "tensorrt_rtx_bindings"
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
_RTX_LIBRARIES = ("libtensorrt_rtx.so.1.*", "libtensorrt_onnxparser_rtx.so.1.*")


def load_tensorrt(library: EngineLibrary) -> Any:
    """Return the library's Python module. Raises PivlError if it is missing or does not load."""
    title = LIBRARY_TITLES[library]
    try:
        if library == "tensorrt" and importlib.util.find_spec("tensorrt"):
            return importlib.import_module("tensorrt")
        if library == "tensorrt-rtx" and importlib.util.find_spec(_RTX_BINDINGS):
            _load_rtx_libraries()
            return importlib.import_module(_RTX_BINDINGS)
    except (ImportError, OSError) as error:
        raise PivlError(f"{title} is installed but does not load: {error}.") from error
    if library == "tensorrt":
        raise PivlError(
            "TensorRT is not installed. Run `pip install 'pivl-distill[trt]'`; it comes from "
            "NVIDIA's package index and takes gigabytes. (TensorRT-RTX, for GeForce and RTX cards, "
            "is another product: --rtx.)"
        )
    raise PivlError(
        "TensorRT-RTX is not installed. Run `pip install 'pivl-distill[rtx]'` on 64-bit x86 "
        "Linux. (TensorRT, for all NVIDIA GPUs, is another product: --trt.)"
    )


def _load_rtx_libraries() -> None:
    """Load the shared libraries of the bindings; NVIDIA ships them in an ONNX Runtime package.

    Their symbols stay local (the default of ctypes), because TensorRT uses the same symbol names.
    """
    package = importlib.util.find_spec(_RTX_PACKAGE)
    folders = (package.submodule_search_locations if package else None) or []
    for pattern in _RTX_LIBRARIES:
        found = sorted(file for folder in folders for file in Path(folder).glob(pattern))
        if not found:
            raise OSError(f"{pattern} is missing; install {_RTX_PACKAGE.replace('_', '-')}-cu13")
        ctypes.CDLL(str(found[-1]))


@functools.cache
def shared_logger(trt: Any) -> Any:
    """Return the logger of a TensorRT module, which collects errors in `messages`.

    It is shared, because the module keeps using the first logger that it receives.
    """

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            # Without a driver each error is followed by one about the missing driver.
            if severity <= trt.ILogger.ERROR and "catchCudaError" not in message:
                self.messages.append(message.strip())

        def drain(self) -> str:
            """Return the messages since the last call in one line, and clear them."""
            messages, self.messages = self.messages, []
            return "; ".join(dict.fromkeys(" ".join(m.split()) for m in messages))

    return Log()
