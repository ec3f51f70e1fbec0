"""Sessions run where they are asked to, or say why not."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

import export.session
from export.session import CPU, check_runtime, open_session, run
from pivl_distill.errors import PivlError


def test_it_runs_on_the_asked_provider_and_threads(mobilenet):
    model, path = mobilenet
    session = open_session(path, threads=1)
    assert session.get_providers() == [CPU]
    assert session.get_session_options().intra_op_num_threads == 1
    features = run(session, torch.zeros(2, 3, *model.size_hw))
    assert features.shape == (2, 1280)
    assert features.dtype == torch.float32


def test_an_unavailable_provider_is_an_error(mobilenet):
    _, path = mobilenet
    with pytest.raises(PivlError, match="cannot use NoSuchExecutionProvider"):
        open_session(path, providers=["NoSuchExecutionProvider", CPU])


def test_a_silent_fallback_is_an_error(mobilenet, monkeypatch):
    _, path = mobilenet
    real = export.session.ort.InferenceSession

    def on_cpu(path, options, providers):
        return real(path, options, providers=[CPU])

    monkeypatch.setattr(export.session.ort, "InferenceSession", on_cpu)
    available = ["CUDAExecutionProvider", CPU]
    monkeypatch.setattr(export.session.ort, "get_available_providers", lambda: available)
    with pytest.raises(PivlError, match="cannot use CUDAExecutionProvider"):
        open_session(path, providers=available)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(PivlError, match="no ONNX file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(PivlError, match="cannot load"):
        open_session(tmp_path / "text.onnx")


@pytest.mark.parametrize("installed", [{"onnxruntime"}, {"onnxruntime-gpu"}])
def test_one_build_of_the_runtime_is_fine(monkeypatch, installed):
    pretend_installed(monkeypatch, installed)
    check_runtime()


def test_both_builds_of_the_runtime_are_an_error(monkeypatch):
    pretend_installed(monkeypatch, {"onnxruntime", "onnxruntime-gpu"})
    with pytest.raises(PivlError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        check_runtime()


def pretend_installed(monkeypatch, names: set[str]) -> None:
    def distribution(name: str) -> object:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
