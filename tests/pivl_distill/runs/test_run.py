"""Run folders: numbered, never overwritten, and finished when run.json exists."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from pivl_distill import crash_report
from pivl_distill.config import DataSettings, StudentConfig, dump_config
from pivl_distill.errors import PivlError
from pivl_distill.runs.run import Run, check_run_folder, read_data_settings


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_numbered_per_kind():
    paths = [Run.create(kind, "a: 1\n").path for kind in ("teach", "teach", "student", "teach")]
    names = ("teach-1", "teach-2", "student-1", "teach-3")
    assert paths == [Path("runs") / name for name in names]
    assert (paths[0] / "config.yaml").read_text() == "a: 1\n"


def test_runs_that_begin_at_once_get_folders_of_their_own():
    """The folder that another command has just created is not listed yet."""
    Path("runs").mkdir()
    listed = Path.glob

    def late(self, pattern):
        found = list(listed(self, pattern))
        Path("runs/teach-1").mkdir(exist_ok=True)
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "glob", late)
        assert Run.create("teach", "").path.name == "teach-2"


def test_one_of_several_processes_gets_the_named_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()

    def create(number: int) -> None:
        start.wait()
        try:
            Run.create("teach", f"a: {number}\n", tmp_path / "mine")
        except PivlError as error:
            results.put(str(error))
        else:
            results.put(number)

    processes = [context.Process(target=create, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert (tmp_path / "mine" / "config.yaml").read_text() == f"a: {winner}\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", ["teach-²", "teach-" + "9" * 5000, "teach--", "teach-1x"])
def test_other_names_are_no_numbers(monkeypatch, name):
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("runs") / name]))
    assert Run.create("teach", "").path.name == "teach-1"


def test_run_folder_is_checked_without_creating_it(tmp_path):
    check_run_folder(None)
    check_run_folder(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []
    Path("runs").touch()
    with pytest.raises(PivlError, match="Cannot write to 'runs'"):
        check_run_folder(None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(PivlError, match="already contains a run"):
        check_run_folder(tmp_path / "mine")


def test_numbers_compare_numerically_and_other_folders_are_ignored(tmp_path):
    for name in ("teach-9", "teach-10", "teach-best"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert Run.create("teach", "").path.name == "teach-11"


def test_named_folder_must_be_empty(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert Run.create("teach", "", folder).path == folder
    with pytest.raises(PivlError, match=r"mine already contains a run; name another .* --out"):
        Run.create("teach", "", folder)


def test_folder_with_only_partial_files_is_empty(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / ".config.yaml.x1.partial").write_text("teach")
    Run.create("teach", "a: 1\n", folder)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_partial_files_next_to_others_are_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".notes.txt.x1.partial").write_text("mine")
    with pytest.raises(PivlError, match="already contains a run"):
        Run.create("teach", "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_metrics_are_appended_line_by_line():
    run = Run.create("teach", "")
    run.log_metrics(epoch=1, loss=0.5)
    run.log_metrics(epoch=2, loss=0.25)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": 0.25},
    ]


def test_removed_run_folder_is_one_sentence_and_stays_removed():
    run = Run.create("teach", "")
    shutil.rmtree(run.path)
    for write in (lambda: run.log_metrics(epoch=1), lambda: run.finish("teach")):
        with pytest.raises(PivlError, match="teach-1 was moved or removed"):
            write()
    assert not run.path.exists()


def test_crash_reports_go_to_the_run_that_goes_on():
    run = Run.create("teach", "teach: {}\n")
    assert crash_report.write_crash_report(ValueError()).parent == run.path
    other = Run.create("student", "student: {}\n")
    Run.open_unfinished("teach", run.path)
    Run(other.path)  # only read
    assert crash_report.write_crash_report(ValueError()).parent == run.path
    crash_report.report_to(None)


def test_only_finished_runs_can_be_opened(tmp_path):
    with pytest.raises(PivlError, match=r"No run folder at .*none"):
        Run.open(tmp_path / "none")
    run = Run.create("student", "")
    with pytest.raises(PivlError, match=r"student-1 contains no finished run .*run it again"):
        Run.open(run.path)
    run.finish("student", mAP=0.5, name="π")
    opened = Run.open(run.path)
    assert opened.kind == "student"
    assert opened.metadata == {"kind": "student", "mAP": 0.5, "name": "π"}


def finish_at(run: Run, kind: str, second: int) -> None:
    run.finish(kind)
    os.utime(run.path / "run.json", (second, second))


def test_latest_is_last_finished_run():
    first, second, other = (Run.create(kind, "") for kind in ("teach", "teach", "student"))
    Run.create("teach", "")  # never finished
    finish_at(second, "teach", 1000)
    finish_at(first, "teach", 2000)
    finish_at(other, "student", 3000)
    assert Run.latest("teach").path == first.path
    assert Run.latest("student").path == other.path


def test_runs_of_other_programs_are_passed_over(tmp_path):
    run = Run.create("teach", "teach:\n")
    run.finish("teach")
    for name, text in (("one", b"{}"), ("other", b'{"step": 3}')):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.json").write_bytes(text)
        (tmp_path / "runs" / name / "config.yaml").write_bytes(b"caf\xe9: 1\n")
    assert Run.latest("teach").path == run.path
    assert [found.path for found in Run.find_all("teach")] == [run.path]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[1]", b"9" * 5000])
def test_damaged_run_is_named(text):
    run = Run.create("teach", "")
    (run.path / "run.json").write_bytes(text)
    with pytest.raises(PivlError, match=r"run\.json is not the summary of a run"):
        Run.latest("teach")


def test_latest_without_finished_run_names_the_command():
    Run.create("teach", "")
    with pytest.raises(PivlError, match=r"No finished teach run .*run `pivl-distill teach` first"):
        Run.latest("teach")


def test_data_settings_of_a_run_are_read_from_its_config(tmp_path):
    settings = DataSettings(spec="market1501:data", parsing=tmp_path, size_hw=(256, 128))
    config = dump_config(StudentConfig(data=settings), "student")
    run = Run.create("student", config)
    assert run.data_settings == settings == read_data_settings(run.path)


def test_folder_without_config_has_default_data_settings(tmp_path):
    assert read_data_settings(tmp_path) == DataSettings()


@pytest.mark.parametrize(
    "foreign", ["", "a: 1\nb: 2\n", "a: 1\n", "a: {b: 1}\n", "- a\n", "a: [", "a: {data: {b: 1}}\n"]
)
def test_config_of_another_program_is_ignored(tmp_path, foreign):
    (tmp_path / "config.yaml").write_text(foreign)
    assert read_data_settings(tmp_path) == DataSettings()


def test_data_settings_of_another_version_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("teach:\n  data: {specs: synthetic:tiny}\n")
    with pytest.raises(PivlError, match=r"config\.yaml, section teach\.data:\n.*mean 'spec'"):
        read_data_settings(tmp_path)


def start(kind: str, folder: str, second: int) -> Run:
    run = Run.create(kind, f"{kind}:\n  seed: 0\n", Path("runs") / folder)
    os.utime(run.path / "config.yaml", (second, second))
    return run


def test_find_all_returns_runs_in_order_of_start(tmp_path):
    runs = [start("teach", "z", 1), start("student", "b", 2), start("teach", "a", 3)]
    assert [run.path for run in Run.find_all("teach")] == [runs[0].path, runs[2].path]
    assert [run.path for run in Run.find_all("student")] == [runs[1].path]
    assert Run.find_all("export") == []


def test_stopped_run_is_neither_finished_nor_running():
    run = start("teach", "a", 1)
    assert run.is_stopped
    with run.progress.session("teach"):
        assert not run.is_stopped
    assert run.is_stopped
    assert Run.open_unfinished("teach", run.path).path == run.path
    run.finish("teach")
    assert not run.is_stopped
    with pytest.raises(PivlError, match="is finished; there is nothing to resume"):
        Run.open_unfinished("teach", run.path)


def test_resume_without_a_run_or_with_another_command_is_refused(tmp_path):
    with pytest.raises(PivlError, match=r"contains no run to resume \(no config\.yaml\)"):
        Run.open_unfinished("teach", tmp_path)
    student = start("student", "a", 1)
    with pytest.raises(PivlError, match="was started by `pivl-distill student`, not by teach"):
        Run.open_unfinished("teach", student.path)


def test_the_latest_run_is_the_latest_when_the_clock_was_set_back():
    """`student` without --bank takes the latest teach run."""
    future = time.time() + 3 * 24 * 3600
    first, second = (Run.create("teach", "teach: {}\n") for _ in range(2))
    for name in ("config.yaml", "run.json"):
        first.finish("teach") if name == "run.json" else None
        os.utime(first.path / name, (future, future))
    second.finish("teach")
    assert Run.latest("teach").path == second.path
    assert [run.path for run in Run.find_all("teach")] == [second.path, first.path]
    third = Run.create("teach", "teach: {}\n")
    assert [run.path for run in Run.find_all("teach")] == [second.path, first.path, third.path]
    (first.path / "run.json").unlink()
    assert Run.latest("teach").path == second.path


def test_resume_state_of_a_run_that_was_killed_after_its_end_is_removed():
    run = Run.create("student", "student: {}\n")
    run.finish("student")
    (run.path / "state").mkdir()
    (run.path / "state" / "progress.safetensors").write_bytes(b"large")
    with pytest.raises(PivlError, match="is finished"):
        Run.open_unfinished("student", run.path)
    assert not (run.path / "state").exists()
