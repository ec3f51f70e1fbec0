"""Batches on a device are copies of the right rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pivl_distill.data import batches as module
from pivl_distill.data.batches import DeviceArray, to_device

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 4, 2, 3), np.uint8)


def test_batch_is_a_copy_of_its_rows() -> None:
    values, rows = make_values(), np.array([4, 0, 4, 8])
    batch = DeviceArray(values, CPU).take(rows)
    np.testing.assert_array_equal(batch.numpy(), values[rows])
    batch.zero_()
    np.testing.assert_array_equal(values, make_values())


def test_memory_mapped_array_is_accepted(tmp_path) -> None:
    np.save(tmp_path / "values.npy", make_values())
    mapped = np.load(tmp_path / "values.npy", mmap_mode="c")
    rows = np.array([3, 2])
    assert torch.equal(
        DeviceArray(mapped, CPU).take(rows), DeviceArray(make_values(), CPU).take(rows)
    )


def test_resident_array_equals_the_input() -> None:
    assert to_device(np.arange(5), CPU).tolist() == [0, 1, 2, 3, 4]


@needs_gpu
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_gpu_batches_are_equal_and_do_not_synchronise(monkeypatch, share: float) -> None:
    monkeypatch.setattr(module, "RESIDENT_SHARE", share)
    values, rows = make_values(), np.array([4, 0, 4, 8])
    pixels = DeviceArray(values, torch.device("cuda"))
    assert pixels.values.is_cuda == bool(share)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = pixels.take(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert batch.is_cuda
    np.testing.assert_array_equal(batch.cpu().numpy(), values[rows])
