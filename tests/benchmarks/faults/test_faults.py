"""Every fault once, on every command; `make faults` repeats the kills at more moments."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.faults import damage, disk, kills
from benchmarks.faults.outcomes import Outcome
from benchmarks.faults.workloads import WORKLOADS, Place, Workload

pytestmark = pytest.mark.slow


def named(values: tuple) -> pytest.MarkDecorator:
    """Parameters of which each has a name or subject."""
    ids = [getattr(value, "name", None) or value.subject for value in values]
    return pytest.mark.parametrize("case", values, ids=ids)


@named(WORKLOADS)
def test_killed_in_every_stage(place: Place, case: Workload) -> None:
    killed = kills.kill_in_each_stage(place, case, 0)
    assert {kill.problem for kill in killed} == {None}
    assert killed  # on a busy machine, kills from outside come too late, which is no kill


@pytest.mark.usefixtures("disks")
@named(disk.FILES)
def test_full_in_the_middle(place: Place, case: disk.FileKind) -> None:
    check(disk.full_in_the_middle, place, case)


@pytest.mark.usefixtures("disks")
@named(disk.CACHED)
def test_full_cache(place: Place, case: disk.FileKind) -> None:
    check(disk.full_cache, place, case)


@pytest.mark.usefixtures("disks")
def test_full_at_an_unexpected_error(place: Place) -> None:
    assert disk.full_at_crash(place).problem is None


@pytest.mark.usefixtures("disks")
@named(WORKLOADS)
def test_refused_places(place: Place, case: Workload) -> None:
    for fault in (disk.FULL, disk.READ_ONLY):
        assert disk.refused(place, case, fault).problem is None


@named(disk.READ_ONLY_FILES)
def test_read_only_in_the_middle(place: Place, case: disk.FileKind) -> None:
    check(disk.denied_in_the_middle, place, case)


@named(damage.FLIPS)
def test_a_bit_of_the_cache_flips(place: Place, case: damage.Flip) -> None:
    check(damage.flip_a_bit, place, case)


@named(WORKLOADS)
def test_the_clock_jumps(place: Place, case: Workload) -> None:
    check(damage.let_clock_jump, place, case)


def check(attempt: Callable[..., Outcome], *arguments: object) -> None:
    assert attempt(*arguments).problem is None
