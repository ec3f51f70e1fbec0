"""torch.compile where it works, and a warning where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pivl_distill.config import Stage2Settings
from pivl_distill.training import compile
from pivl_distill.training.compile import LONG_RUN_STEPS, compile_body, should_compile

CPU = torch.device("cpu")


def test_without_a_compiler_the_body_stays_uncompiled_with_a_warning(monkeypatch, caplog):
    def broken(*_args: object, **_options: object) -> object:
        raise RuntimeError("No working C++ compiler found.\nMany more lines")

    body = nn.Linear(3, 3)
    monkeypatch.setattr(compile.torch, "compile", broken)
    compile_body(body, CPU)
    assert body._compiled_call_impl is None
    assert "without torch.compile: No working C++ compiler found. stage2.compile" in caplog.text


def test_a_compiled_body_is_the_same_module(monkeypatch):
    monkeypatch.setattr(compile, "compile_error", lambda _device: None)
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    body = nn.Linear(3, 3)
    with torch._dynamo.config.patch(suppress_errors=False):
        compile_body(body, CPU)
        assert torch._dynamo.config.suppress_errors  # code that cannot be compiled runs uncompiled
    assert compiled == [body]


@pytest.mark.parametrize("setting", [True, False])
def test_explicit_setting_overrides_auto(setting):
    assert (
        should_compile(setting, 1, CPU)
        is should_compile(setting, 10**6, torch.device("cuda"))
        is setting
    )


def test_auto_compiles_only_long_runs_on_a_cpu():
    assert not should_compile("auto", LONG_RUN_STEPS - 1, CPU)
    assert should_compile("auto", LONG_RUN_STEPS, CPU)
    assert not should_compile("auto", LONG_RUN_STEPS, torch.device("cuda"))


def test_settings_accept_true_false_and_auto():
    assert [Stage2Settings(compile=value).compile for value in (True, False, "auto")] == [
        True,
        False,
        "auto",
    ]
