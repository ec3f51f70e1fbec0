"""The faults themselves: kills at their call, full disks to the byte, one bit, and no more."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import injection
from benchmarks.faults.disk import small_disk
from benchmarks.faults.injection import (
    FillDisk,
    FlipBit,
    JumpingClock,
    Stages,
    WhenWritten,
    call_before,
    fill,
    hashes,
)
from benchmarks.faults.workloads import Place

FUNCTIONS = ("", "json:dumps", "json:loads")
context = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
pytestmark = pytest.mark.skipif(context is None, reason="needs fork")


def work() -> None:
    for number in range(50):
        json.loads(json.dumps([number]))


def run_with(fault: Any, function: Callable[[], None] = work) -> tuple[int | None, list[float]]:
    """Run a function in a process with a fault; return its exit code and what was sent."""
    assert context is not None
    here, there = context.Pipe(duplex=False)

    def target() -> None:
        fault.install(there)
        function()
        fault.close()

    process = context.Process(target=target)
    process.start()
    process.join(60)
    sent = []
    while here.poll():
        sent.append(here.recv())
    return process.exitcode, sent


def test_calls_are_counted_by_stage_and_a_kill_comes_at_its_call(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert run_with(Stages(FUNCTIONS, report=report)) == (0, [])
    counted = json.loads(report.read_text())
    assert len(counted["calls"]) == len(counted["seconds"]) == 3
    assert run_with(Stages(FUNCTIONS, report=report, counted=False)) == (0, [])
    timed = json.loads(report.read_text())
    assert timed["calls"] == [0, 0, 0]
    assert 0 < timed["seconds"][2] < 60
    last = counted["calls"][2]
    assert last > 100
    report.unlink()
    assert run_with(Stages(FUNCTIONS, kill_at=(2, last // 2), report=report))[0] == -signal.SIGKILL
    assert not report.exists()
    assert run_with(Stages(FUNCTIONS, kill_at=(2, 2 * last), report=report))[0] == 0


def test_a_kill_at_a_time_is_asked_for_at_the_start_of_its_stage() -> None:
    assert run_with(Stages(FUNCTIONS, kill_after=(0, 0.25))) == (0, [0.25])
    assert run_with(Stages(FUNCTIONS, kill_after=(2, 0.5))) == (0, [0.5])
    assert run_with(Stages(("", "json:load"), kill_after=(1, 0.5))) == (0, [])


def test_functions_are_replaced_wherever_they_were_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    from benchmarks.faults import disk

    for module in (disk, injection):  # both are put back afterwards
        monkeypatch.setattr(module, "hashes", hashes)
    call_before("benchmarks.faults.injection:hashes", lambda: calls.append(1))
    folder = Path(__file__).parent
    assert disk.hashes(folder) == injection.hashes(folder)
    assert calls == [1, 1]


def test_an_action_comes_before_the_writing_of_its_file(tmp_path: Path) -> None:
    def look(path: Path) -> None:
        (tmp_path / "seen").symlink_to(path.name + str((tmp_path / "b.json").exists()))

    def write() -> None:
        for name in ("a.json", ".b.json.x1_y2z3.partial", "b.json", "b.json"):
            (tmp_path / name).write_text(name)
        (tmp_path / "b.json").read_text()

    assert run_with(WhenWritten(r"b\.json", look, 2), write) == (0, [])
    assert os.readlink(tmp_path / "seen") == "b.jsonFalse"  # noqa: PTH115


def test_one_bit_is_flipped(tmp_path: Path) -> None:
    file = tmp_path / "entry" / "pixels.npy"
    file.parent.mkdir()
    file.write_bytes(bytes(range(100)))
    before = int.from_bytes(file.read_bytes(), "big")
    FlipBit(tmp_path, "*/pixels.npy")(Path("any"))
    assert (before ^ int.from_bytes(file.read_bytes(), "big")).bit_count() == 1


def test_a_jumping_clock_jumps_and_the_steady_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "written"

    def write() -> None:
        start, steady, dates = time.time(), time.monotonic(), []
        for _ in range(5):
            file.write_text("")
            (tmp_path / "other").touch()
            dates.append(abs(time.time() - start))
        assert max(dates) > 24 * 3600
        assert time.monotonic() - steady < 60

    assert run_with(JumpingClock((tmp_path,)), write) == (0, [])


@pytest.mark.usefixtures("disks")
def test_a_full_disk_has_room_for_the_bytes_and_no_more(small_place: Place) -> None:
    with small_disk(small_place) as disk:
        (disk / "kept").write_bytes(b"kept")
        listing = small_place.folder / "listing.json"
        FillDisk(disk / "ballast", 3 * 4096, listing)(Path("any"))
        assert json.loads(listing.read_text()).keys() == {"kept"}
        (disk / "fits").write_bytes(bytes(3 * 4096))
        with pytest.raises(OSError, match="No space left"):
            (disk / "too much").write_bytes(b"1")
        fill(disk / "ballast")  # again
