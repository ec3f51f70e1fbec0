"""Loading TensorRT's modules: the errors if they are missing, and the shared log."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from export.engines import library
from export.engines.library import load_tensorrt, shared_logger
from pivl_distill.errors import PivlError


@pytest.mark.parametrize(
    ("name", "install", "other"),
    [("tensorrt", "pivl-distill[trt]", "--rtx"), ("tensorrt-rtx", "pivl-distill[rtx]", "--trt")],
)
def test_missing_library_error_says_how_to_install_it(monkeypatch, name, install, other):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(PivlError, match="is not installed") as error:
        load_tensorrt(name)
    assert f"pip install '{install}'" in str(error.value)
    assert other in str(error.value)


def test_library_that_does_not_load_reports_the_reason(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(PivlError, match=r"does not load: libnvinfer\.so\.11: not found"):
        load_tensorrt("tensorrt")


@pytest.mark.parametrize("package", [None, "empty"])
def test_bindings_without_shared_library_name_the_package(monkeypatch, tmp_path, package):
    folder = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    specs = {
        "tensorrt_rtx_bindings": SimpleNamespace(),
        "onnxruntime_ep_nv_tensorrt_rtx": folder if package else None,
    }
    monkeypatch.setattr(importlib.util, "find_spec", specs.get)
    with pytest.raises(PivlError, match=r"libtensorrt_rtx\.so\.1.* install onnxruntime-ep-nv-"):
        load_tensorrt("tensorrt-rtx")


def test_log_drops_warnings_duplicates_and_echoes_of_a_missing_driver(fake_tensorrt):
    log = shared_logger(fake_tensorrt)
    assert shared_logger(fake_tensorrt) is log
    log.log(2, "a warning")
    log.log(1, "no room\n for it ")
    log.log(1, "no room for it")
    log.log(0, "[checkMacros.cpp::catchCudaError::250] cudaError 35")
    assert log.drain() == "no room for it"
    assert log.drain() == ""


def test_real_library_loads_and_logs_errors(rtx):
    assert rtx.__name__ == library._RTX_BINDINGS
    assert rtx.__version__.startswith("1.")
    log = shared_logger(rtx)
    log.drain()
    assert rtx.Runtime(log).deserialize_cuda_engine(b"no engine at all" * 10) is None
    assert "magicTag" in log.drain()


def test_fake_has_only_names_of_the_real_library(rtx, fake_tensorrt):
    for fake in fake_tensorrt.classes:
        names = {*vars(fake), *vars(fake).get("__annotations__", ())}
        real = dir(getattr(rtx, fake.__name__))
        assert {name for name in names if not name.startswith("_")} <= set(real), fake.__name__
    for name in ("NetworkDefinitionCreationFlag", "BuilderFlag"):
        assert set(getattr(fake_tensorrt, name).__members__) <= set(getattr(rtx, name).__members__)
    assert hasattr(rtx.MemoryPoolType, "WORKSPACE")
