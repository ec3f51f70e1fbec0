"""A place with uninterrupted commands, which the faults are compared with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from benchmarks.faults.disk import NoDiskError, small_disk
from benchmarks.faults.processes import Forks
from benchmarks.faults.workloads import Place

NEEDED_BY_PARSE = (
    "benchmarks.faults.injection",
    "pivl_distill.app.report",
    "pivl_distill.cli",
    "pivl_distill.data.datasets",
    "pivl_distill.parsing.parse_dataset",
)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Commands run here for the first time that a test needs them."""
    yield from make_place(tmp_path_factory, Forks())


@pytest.fixture(scope="session")
def small_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """As `place`, for commands that need few modules, which are imported fast."""
    yield from make_place(tmp_path_factory, Forks(*NEEDED_BY_PARSE))


def make_place(factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Place]:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Place(factory.mktemp("faults"), forks)


@pytest.fixture(scope="session")
def disks(small_place: Place) -> None:
    """Skip tests that mount disks where this user may not."""
    try:
        with small_disk(small_place):
            pass
    except NoDiskError as error:
        pytest.skip(str(error))
