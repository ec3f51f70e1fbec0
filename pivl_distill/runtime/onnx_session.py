"""ONNX Runtime sessions that run on the requested device or raise an error.

ONNX Runtime falls back to the CPU silently when a provider's libraries are missing. Here that is an
error, because a latency measured on the wrong device is worse than none.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from pivl_distill.errors import PivlError, one_line
from pivl_distill.runtime.onnx_file import OnnxFile, check_onnx, check_onnx_file

ExecutionDevice = Literal["cpu", "cuda"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PROVIDERS: dict[ExecutionDevice, str] = {"cpu": CPU, "cuda": CUDA}
OLDEST_ONNXRUNTIME = "1.18"
"""First version that reads exports, which have IR version 10."""
_OPTIONS: dict[str, dict[str, Any]] = {CUDA: {"use_tf32": 0}}
"""TensorFloat-32 is off: it would make fp32 files less accurate than they were verified to be."""


def open_session(
    model: Path | OnnxFile,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (CPU,),
    external_data: bool = False,
) -> ort.InferenceSession:
    """Open an ONNX file on `providers`, in order of preference.

    Args:
        model: path of the file, or a file whose contents were read.
        threads: CPU threads per call; None leaves the number to ONNX Runtime.
        providers: ONNX Runtime's execution providers.
        external_data: whether weights may be in other files of the same folder.

    Raises: PivlError if the file cannot be loaded, if it is refused by `check_onnx`, or if any of
        the providers is not available.
    """
    check_onnxruntime_install()
    path, source = (model.path, model.content) if isinstance(model, OnnxFile) else (model, None)
    if source is None:
        check_onnx_file(path, external_data=external_data)
    else:
        check_onnx(path, source)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    usable = [p for p in ort.get_available_providers() if p != CUDA or has_cuda()]
    if missing := [p for p in providers if p not in usable]:
        raise _provider_missing(missing)
    if CUDA in providers and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from the nvidia-* packages, where they are installed
    try:
        session = ort.InferenceSession(
            source or str(path), options, providers=[(p, _OPTIONS.get(p, {})) for p in providers]
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise PivlError(
            f"ONNX Runtime cannot load '{path}': {one_line(error)}{_update_hint()}"
        ) from error
    if missing := [p for p in providers if p not in session.get_providers()]:
        raise _provider_missing(missing)
    return session


def _update_hint() -> str:
    """Return what to do if ONNX Runtime is older than exports need, else nothing."""
    installed, oldest = (
        tuple(int(number) for number in version.split(".")[:2])
        for version in (ort.__version__, OLDEST_ONNXRUNTIME)
    )
    if installed >= oldest:
        return ""
    return (
        f". This is ONNX Runtime {ort.__version__}, and exports need {OLDEST_ONNXRUNTIME} or newer:"
        " pip install --upgrade onnxruntime."
    )


def has_cuda() -> bool:
    """Return whether ONNX Runtime was built for CUDA and NVIDIA's driver is installed."""
    if CUDA not in ort.get_available_providers():
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def check_onnxruntime_install() -> None:
    """Raise PivlError if both ONNX Runtime builds are installed: they overwrite each other."""
    if all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu")):
        raise PivlError(
            "Both onnxruntime and onnxruntime-gpu are installed. Both install the same Python "
            "module, so each has overwritten files of the other. Run `pip uninstall -y onnxruntime "
            "onnxruntime-gpu`, then `pip install onnxruntime-gpu` (it also runs on the CPU)."
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _provider_missing(missing: list[str]) -> PivlError:
    return PivlError(
        f"ONNX Runtime cannot use {', '.join(missing)} here. It was built with "
        f"{', '.join(ort.get_available_providers())}; a GPU provider also needs NVIDIA's driver "
        "and libraries. Install what is missing, or use the CPU."
    )
