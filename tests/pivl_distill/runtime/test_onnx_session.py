"""Sessions run on the requested device or raise an error."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runtime import onnx_session as sessions
from pivl_distill.runtime.onnx_session import (
    CPU,
    CUDA,
    check_onnxruntime_install,
    has_cuda,
    open_session,
)


@pytest.fixture(scope="module")
def path(deployed_once):
    return deployed_once / "model.onnx"


def test_session_uses_the_requested_provider_and_threads(path):
    session = open_session(path, threads=1)
    assert session.get_providers() == [CPU]
    assert session.get_session_options().intra_op_num_threads == 1
    (features,) = session.run(None, {"images": np.zeros((2, 3, 64, 32), np.float32)})
    assert features.shape == (2, 24)
    assert features.dtype == np.float32


def test_unavailable_provider_raises(path):
    with pytest.raises(PivlError, match="cannot use NoSuchExecutionProvider"):
        open_session(path, providers=["NoSuchExecutionProvider", CPU])


def test_silent_fallback_raises(path, monkeypatch):
    real = sessions.ort.InferenceSession

    def on_cpu(path, options, providers):
        return real(path, options, providers=[CPU])

    monkeypatch.setattr(sessions.ort, "InferenceSession", on_cpu)
    monkeypatch.setattr(sessions.ort, "preload_dlls", lambda: None, raising=False)
    available = [CUDA, CPU]
    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: available)
    with pytest.raises(PivlError, match="cannot use CUDAExecutionProvider"):
        open_session(path, providers=available)


def test_missing_and_invalid_onnx_files_raise(tmp_path):
    with pytest.raises(PivlError, match="no ONNX file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(PivlError, match="cannot load"):
        open_session(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("installed", "hint"),
    [
        ("1.17.3", ". This is ONNX Runtime 1.17.3, and exports need 1.18 or newer: pip install"
                   " --upgrade onnxruntime."),
        ("1.18.0", ""),
        ("1.31.1", ""),
    ],
)  # fmt: skip
def test_an_onnxruntime_older_than_exports_is_named(path, monkeypatch, installed, hint):
    def refuse(*_, **__):
        raise RuntimeError("Unsupported model IR version: 10, max supported IR version: 9")

    monkeypatch.setattr(sessions.ort, "InferenceSession", refuse)
    monkeypatch.setattr(sessions.ort, "__version__", installed)
    with pytest.raises(PivlError, match="cannot load") as raised:
        open_session(path)
    assert str(raised.value).endswith(f"max supported IR version: 9{hint}")


@pytest.mark.parametrize(("built", "driver"), [(False, True), (True, False), (True, True)])
def test_cuda_needs_a_cuda_build_and_a_driver(monkeypatch, built, driver):
    def load(_name):
        if not driver:
            raise OSError("no such library")

    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: [CUDA] * built + [CPU])
    monkeypatch.setattr(sessions.ctypes, "CDLL", load)
    assert has_cuda() == (built and driver)


@pytest.mark.parametrize("installed", [{"onnxruntime"}, {"onnxruntime-gpu"}])
def test_one_onnxruntime_build_is_accepted(monkeypatch, installed):
    pretend_installed(monkeypatch, installed)
    check_onnxruntime_install()


def test_both_onnxruntime_builds_raise(monkeypatch):
    pretend_installed(monkeypatch, {"onnxruntime", "onnxruntime-gpu"})
    with pytest.raises(PivlError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        check_onnxruntime_install()


def pretend_installed(monkeypatch, names: set[str]) -> None:
    def distribution(name: str) -> object:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
