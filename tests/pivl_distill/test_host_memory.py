"""Freed memory is kept for the next tensor: counted in pages that the system had to provide."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from pivl_distill import host_memory
from pivl_distill.host_memory import GLIBC_DEFAULTS, keep_freed_memory, set_malloc

CPU = torch.device("cpu")
BLOCK_MIB, TIMES = 64, 10

needs_glibc = pytest.mark.skipif(
    not set_malloc(*GLIBC_DEFAULTS), reason="needs glibc, whose malloc is told"
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_malloc(*GLIBC_DEFAULTS)


def new_pages() -> int:
    """Pages of 4 KiB that came anew while a block was taken and freed again and again."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        torch.ones(BLOCK_MIB * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@needs_glibc
def test_a_block_comes_anew_once_instead_of_every_time() -> None:
    assert keep_freed_memory(CPU)
    new_pages()
    kept = new_pages()
    set_malloc(*GLIBC_DEFAULTS)
    given_back = new_pages()
    assert 10 * kept < given_back


def test_other_devices_and_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not keep_freed_memory(torch.device("meta"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory(CPU)


def test_a_system_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(CPU)
