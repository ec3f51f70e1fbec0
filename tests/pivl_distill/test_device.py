"""The choice of a device."""

from __future__ import annotations

import pytest
import torch

from pivl_distill.device import pick_device
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError


def test_missing_cuda_device_raises_with_advice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PivlError, match=r"No CUDA device .* set device to 'auto' or 'cpu'"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_auto_prefers_cuda_and_cpu_stays_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


def test_more_processes_than_cuda_devices_raise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(process_group, "local_rank", lambda: 1)
    assert pick_device("auto").type == "cuda"
    monkeypatch.setattr(process_group, "local_rank", lambda: 2)
    with pytest.raises(PivlError, match="2 CUDA devices but more processes"):
        pick_device("cuda")
    assert pick_device("cpu").type == "cpu"
