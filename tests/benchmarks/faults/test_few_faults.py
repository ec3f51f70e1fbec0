"""A few faults of commands that take a second; `test_faults.py` has the others."""

from __future__ import annotations

import pytest

from benchmarks.faults import damage, disk, kills
from benchmarks.faults.workloads import PARSE, SYNTH, Place


def test_a_command_that_is_killed_in_every_stage_ends_with_equal_files(small_place: Place) -> None:
    killed = kills.kill_in_each_stage(small_place, PARSE, 0)
    assert {kill.problem for kill in killed} == {None}
    assert {kill.stage for kill in killed} >= {"start", "maps"}


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize("name", ["part map", "description of maps", "synthetic image"])
def test_a_disk_that_gets_full_loses_nothing(small_place: Place, name: str) -> None:
    (kind,) = [kind for kind in disk.FILES if kind.name == name]
    assert disk.full_in_the_middle(small_place, kind).problem is None


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize("fault", [disk.FULL, disk.READ_ONLY])
def test_a_place_that_cannot_be_written_is_refused(small_place: Place, fault: str) -> None:
    assert disk.refused(small_place, PARSE, fault).problem is None


def test_a_folder_that_gets_read_only_loses_nothing(small_place: Place) -> None:
    (kind,) = [kind for kind in disk.READ_ONLY_FILES if kind.workload is PARSE]
    assert disk.denied_in_the_middle(small_place, kind).problem is None


@pytest.mark.parametrize("workload", [PARSE, SYNTH], ids=lambda workload: workload.name)
def test_a_clock_that_jumps_changes_nothing(small_place: Place, workload) -> None:
    assert damage.let_clock_jump(small_place, workload).problem is None
