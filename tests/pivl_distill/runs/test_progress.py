"""Runs that are stopped and resumed end with the same bytes as uninterrupted ones."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pivl_distill.data.sampling import Step
from pivl_distill.errors import DivergenceError, PivlError
from pivl_distill.runs import progress
from pivl_distill.runs.progress import SAVE_PERIOD_S, Progress, is_running
from pivl_distill.runs.run import Run
from pivl_distill.storage.tensors import load_tensors, save_tensors
from small_run import STEPS, STEPS_PER_EPOCH, small_network
from stopped_runs import Killed, assert_same_run, kill_process
from stubs import MapStub


@pytest.mark.parametrize("period_s", [progress.SAVE_PERIOD_S, 0.0])
def test_resume_after_kills_is_bit_identical(
    train_run, call_at_step, uninterrupted, tmp_path, monkeypatch, period_s
):
    """The state is saved at the end of each epoch, or after each step."""
    monkeypatch.setattr(progress, "SAVE_PERIOD_S", period_s)
    for number in (1, 1, 4, 2, 6, 1, 3):  # step in each session
        call_at_step(number, kill_process)
        with pytest.raises(Killed):
            train_run()
    call_at_step(0, kill_process)
    assert_same_run(train_run(), tmp_path / "run", uninterrupted)


def test_saved_steps_are_not_repeated(train_run, call_at_step, caplog):
    call_at_step(STEPS_PER_EPOCH + 2, kill_process)
    with pytest.raises(Killed):
        train_run()
    call_at_step(STEPS - STEPS_PER_EPOCH, kill_process)  # the last remaining step
    with pytest.raises(Killed):
        train_run()
    assert f"Continuing after step 4 of {STEPS}." in caplog.text


@pytest.mark.parametrize("moment", ["before the rename", "after it"])
def test_kill_while_state_is_written(train_run, uninterrupted, tmp_path, monkeypatch, moment):
    run, replace, renames = tmp_path / "run", os.replace, iter(range(100))

    def killed(source, target):
        if Path(target).name != "progress.safetensors" or next(renames) != 1:
            return replace(source, target)
        if moment == "after it":
            replace(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)  # no cleanup
        with pytest.raises(Killed):
            train_run()
    partial = [path for path in (run / "state").iterdir() if path.name.startswith(".")]
    assert len(partial) == (moment == "before the rename")
    assert_same_run(train_run(), run, uninterrupted)
    assert list(run.rglob(".*")) == []


def test_metrics_after_saved_state_are_removed(train_run, call_at_step, uninterrupted, tmp_path):
    call_at_step(2 * STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "reid", "epoch": 3}\n{"stage": "re')
    assert_same_run(train_run(), tmp_path / "run", uninterrupted)


def test_kill_before_first_save_restarts(train_run, call_at_step, uninterrupted, tmp_path):
    call_at_step(2, kill_process)
    with pytest.raises(Killed):
        train_run()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "reid"')
    assert_same_run(train_run(), tmp_path / "run", uninterrupted)


def test_second_process_is_refused(tmp_path):
    assert not is_running(tmp_path)
    with Progress(tmp_path).session("teach"):
        assert is_running(tmp_path)
        with (
            pytest.raises(PivlError, match="Another process is running"),
            Progress(tmp_path).session("teach"),
        ):
            pytest.fail("two processes run one run")
    assert not is_running(tmp_path)


def test_finished_run_has_no_state(tmp_path):
    run = Run.create("teach", "", tmp_path / "run")
    with run.progress.session("teach", config={}):
        assert (run.path / "state" / "contract.json").is_file()
        run.finish("teach")
        assert (run.path / "state").is_dir()  # until the session ends
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_damaged_state_is_refused(train_run, call_at_step, tmp_path):
    call_at_step(STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run()
    file = tmp_path / "run" / "state" / "progress.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PivlError, match=r"progress\.safetensors is not a training progress"):
        train_run()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "1"},
        {"steps": -1},
        {"steps": 10**6},
        {"step_rng": {"state": 1}},
        {"seconds": {"reid": "long"}},
        {"metrics": None},
        {"parts": {}},
        {"unknown": 1},
    ],
)
def test_damaged_values_are_refused_and_nothing_is_changed(
    train_run, call_at_step, tmp_path, change
):
    call_at_step(STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run()
    file = tmp_path / "run" / "state" / "progress.safetensors"
    kind, tensors, metadata = load_tensors(file, progress.KIND)
    save_tensors(file, kind, tensors, {**metadata, **change})
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(PivlError, match=r"progress\.safetensors, .*, is damaged: .*new run"):
        train_run()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_config_that_is_no_text_is_replaced(tmp_path):
    run = Run.create("student", "", tmp_path / "run")
    (run.path / "config.yaml").write_bytes(b"student:\n\xff")
    with run.progress.session("student", "student: {seed: 1}"):
        assert (run.path / "config.yaml").read_text() == "student: {seed: 1}"


def test_state_of_another_stage_is_not_restored(train_run, call_at_step, uninterrupted, tmp_path):
    call_at_step(STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run()
    progress = Progress(tmp_path / "run")
    with progress.session("teach"):
        part = small_network()
        assert len(progress.remaining_steps("another", range(9), part=part)) == 9
    assert torch.equal(part.encoder.weight, small_network().encoder.weight)


def six_steps(epoch: int = 3) -> list[Step]:
    """Return six steps in epochs of `epoch` steps."""
    rng = np.random.default_rng(0)
    return [Step(n // epoch, n % epoch, epoch, np.arange(2), rng) for n in range(6)]


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """A clock that only `clock(seconds)` advances."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


def test_time_is_counted_per_stage(clock):
    progress = Progress(Path())
    clock(1)  # no stage has started yet
    for stage, seconds in (("prompts", 2), ("teacher", 4), ("prompts", 8), ("end", 16)):
        progress.start_stage(stage)
        clock(seconds)
    progress.start_stage("never")
    assert progress.seconds == {"prompts": 10, "teacher": 4, "end": 16}


def test_time_until_saved_step_is_restored(clock, tmp_path):
    def run_session(progress: Progress, step_s: float, killed_in: int | None = None) -> None:
        with progress.session("student"):
            progress.start_stage("training")
            for number, _ in enumerate(progress.remaining_steps("reid", six_steps()), start=1):
                clock(step_s)
                if number == killed_in:
                    raise Killed
            progress.start_stage("evaluation")

    with pytest.raises(Killed):
        run_session(Progress(tmp_path), step_s=10, killed_in=5)
    resumed = Progress(tmp_path)
    run_session(resumed, step_s=1)
    assert resumed.seconds == {"training": 3 * 10 + 3 * 1}


def test_long_epoch_is_saved_periodically(clock, tmp_path):
    progress = Progress(tmp_path)
    file, saved = tmp_path / "state" / "progress.safetensors", []
    with progress.session("student"):
        for _ in progress.remaining_steps("reid", six_steps(epoch=6)):
            saved.append(file.is_file())
            clock(0.4 * SAVE_PERIOD_S)
    assert saved == [False, False, False, True, True, True]


def test_a_diverged_run_keeps_its_last_state_and_says_how_to_continue(
    train_run, call_at_step, tmp_path
):
    def diverge() -> None:
        raise DivergenceError("The loss is NaN.", "stage2.learning_rate")

    call_at_step(STEPS_PER_EPOCH + 2, diverge)
    with pytest.raises(DivergenceError) as error:
        train_run()
    run = tmp_path / "run"
    assert str(error.value) == (
        f"The loss is NaN.\nThe state after step {STEPS_PER_EPOCH} of the stage reid is kept."
        " Continue from there with other settings:"
        f" `pivl-distill student --resume {run} --set stage2.learning_rate=VALUE`."
    )
    call_at_step(STEPS, pytest.fail)
    train_run()


def test_a_state_that_is_not_finite_is_not_saved(train_run, call_at_step, tmp_path, monkeypatch):
    saved = tmp_path / "run" / "state" / "progress.safetensors"

    def break_state(part: MapStub) -> dict[str, Tensor]:
        return {"weight": torch.tensor([torch.nan])}

    call_at_step(STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run()
    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(MapStub, "state_dict", break_state)
        with pytest.raises(PivlError, match=r"not written .* 'network\.weight' is not finite"):
            train_run()
    assert saved.read_bytes() == before


def test_changed_optimisation_is_recorded_with_the_saved_step(train_run, call_at_step, tmp_path):
    run = Run(tmp_path / "run")
    call_at_step(STEPS_PER_EPOCH + 2, kill_process)
    with pytest.raises(Killed):
        train_run(config={"stage2": {"learning_rate": 9.0}})
    (run.path / "config.yaml").write_text("old")
    now = {"stage2": {"learning_rate": 0.5}}
    with run.progress.session("student", "new", config=now):
        run.finish("student")
    assert (run.path / "config.yaml").read_text() == "new"
    assert run.metadata["changed_settings"] == [
        {
            "stage": "reid",
            "steps": STEPS_PER_EPOCH,
            "settings": {"stage2.learning_rate": {"before": 9.0, "after": 0.5}},
        }
    ]


def test_removed_run_folder_is_one_sentence_and_stays_removed(tmp_path):
    run = Run.create("student", "", tmp_path / "run")

    def remove_in_first_step():
        with run.progress.session("student"):
            for _ in run.progress.remaining_steps("reid", six_steps()):
                shutil.rmtree(run.path, ignore_errors=True)

    with pytest.raises(PivlError, match="run was moved or removed while the run was going on"):
        remove_in_first_step()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_tells_how_to_resume(tmp_path, caplog):
    full = OSError(errno.ENOSPC, "No space left on device", "state")
    with pytest.raises(OSError, match="No space"), Progress(tmp_path).session("student"):
        raise full
    assert f"`pivl-distill student --resume {tmp_path}`" in caplog.text


def test_run_of_another_user_is_taken_for_running(tmp_path, monkeypatch):
    """Its lock cannot be opened; the present command must not fail for it."""
    (tmp_path / "state").mkdir()

    def forbidden(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", forbidden)
    assert is_running(tmp_path)
