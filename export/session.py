"""ONNX Runtime sessions that run where they were asked to run, or not at all.

ONNX Runtime silently falls back to the CPU when a provider's libraries are missing; here that is an
error, for a latency measured on the wrong device is worse than none.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor

from pivl_distill.errors import PivlError

CPU = "CPUExecutionProvider"


def open_session(
    path: Path, *, threads: int | None = None, providers: Sequence[str] = (CPU,)
) -> ort.InferenceSession:
    """A session on `providers`, in order of preference, with `threads` CPU threads (None: all).

    Raises PivlError if the file cannot be loaded or a provider is not available.
    """
    check_runtime()
    if not path.is_file():
        raise PivlError(f"There is no ONNX file at '{path}'.")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    if missing := [p for p in providers if p not in ort.get_available_providers()]:
        raise _provider_missing(missing)
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise PivlError(f"ONNX Runtime cannot load '{path}': {error}") from error
    if missing := [p for p in providers if p not in session.get_providers()]:
        raise _provider_missing(missing)
    return session


def run(session: ort.InferenceSession, *inputs: Tensor) -> Tensor:
    """Images as the graph takes them, and cameras int64 [B] if it takes them → features float32
    [B, F].

    Raises PivlError if ONNX Runtime gives up.
    """
    return run_all(session, *inputs)[0]


def run_all(session: ort.InferenceSession, *inputs: Tensor) -> list[Tensor]:
    """`run` for all outputs of a graph."""
    feed = {
        info.name: value.cpu().contiguous().numpy()
        for info, value in zip(session.get_inputs(), inputs, strict=True)
    }
    try:
        return [torch.from_numpy(output) for output in session.run(None, feed)]
    except Exception as error:  # as above
        raise PivlError(f"ONNX Runtime cannot run the graph: {error}") from error


def check_runtime() -> None:
    """PivlError if both builds of ONNX Runtime are installed: they overwrite each other's files."""
    if all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu")):
        raise PivlError(
            "Both onnxruntime and onnxruntime-gpu are installed. They are one Python module, so "
            "parts of each are overwritten. Run `pip uninstall -y onnxruntime onnxruntime-gpu`, "
            "then `pip install onnxruntime-gpu` (it also runs on the CPU)."
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
        f"and libraries. Ask for {CPU}, or install what is missing."
    )
