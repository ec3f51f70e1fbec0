"""Freed memory is kept for reuse, measured with glibc's own block statistics."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from pivl_distill.training import host_memory
from pivl_distill.training.host_memory import GLIBC_DEFAULTS, keep_freed_memory, set_malloc_options

CPU = torch.device("cpu")
BLOCK_BYTES = 64 * 2**20


class Mallinfo2(ctypes.Structure):
    """The struct of glibc's malloc.h; two of its fields are read."""

    _fields_ = [
        *((f"_{number}", ctypes.c_size_t) for number in range(4)),
        ("hblkhd", ctypes.c_size_t),
        *((f"_{number}", ctypes.c_size_t) for number in range(4, 7)),
        ("fordblks", ctypes.c_size_t),
        ("_keepcost", ctypes.c_size_t),
    ]


needs_glibc = pytest.mark.skipif(
    not (set_malloc_options(*GLIBC_DEFAULTS) and hasattr(ctypes.CDLL(None), "mallinfo2")),
    reason="needs mallopt and mallinfo2 of glibc 2.33 or newer",
)


def malloc_info() -> Mallinfo2:
    """Return malloc's statistics."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    return mallinfo2()


def mapped_and_kept_bytes() -> tuple[int, int]:
    """Allocate and free a block; return the bytes mapped for it and those kept free afterwards."""
    before = malloc_info()
    block = torch.ones(BLOCK_BYTES // 4)
    mapped = malloc_info().hblkhd - before.hblkhd
    del block
    return mapped, malloc_info().fordblks


@needs_glibc
def test_freed_block_is_kept_for_reuse() -> None:
    """In a new process: a heap that has grown never shrinks completely."""
    command = [sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (mapped, kept), (mapped_then, kept_then) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert mapped >= BLOCK_BYTES > kept
    assert mapped_then == 0
    assert kept_then >= BLOCK_BYTES


def test_other_devices_and_systems_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not keep_freed_memory(torch.device("meta"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory(CPU)


def test_system_without_mallopt_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(CPU)


if __name__ == "__main__":  # with glibc's defaults, then with freed memory kept
    print(*mapped_and_kept_bytes())
    assert keep_freed_memory(CPU)
    print(*mapped_and_kept_bytes())
