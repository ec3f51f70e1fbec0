"""`--resume` as a user runs it: bit-identical results, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import QUICK, refuse, succeed
from pivl_distill.data.synthetic.cache import cached_dataset
from stopped_runs import EPOCHS, assert_same_student, kill_command


def test_resume_without_name_takes_the_unfinished_run(desk: Path) -> None:
    kill_command("student", *QUICK, *EPOCHS)
    output = succeed("student", "--resume")
    assert "Continuing after step 5 of 15." in output
    assert "Student in runs/student-1" in output
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_resume_uses_the_bank_of_the_start(desk: Path) -> None:
    kill_command("student", *QUICK, *EPOCHS)
    succeed("teach", *QUICK, "--set", "seed=1")
    output = refuse("student", "--resume", "--bank", "runs/teach-2")
    assert "runs/student-1 was started with something else: bank.sha256 was " in output
    Path("runs/teach-1").rename("moved")
    assert "No prompt bank at" in refuse("student", "--resume")
    succeed("student", "--resume", "--bank", "moved")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_new_run_reports_that_the_latest_is_unfinished(desk: Path) -> None:
    kill_command("student", *QUICK, *EPOCHS)
    output = succeed("student", *QUICK, *EPOCHS)
    hint = "runs/student-1 is unfinished; `pivl-distill student --resume runs/student-1` continues"
    assert hint in output
    assert_same_student(Path("runs/student-2"), Path("unstopped"))
    assert "unfinished" not in succeed("student", *QUICK)  # the latest one is finished
    succeed("student", "--resume", "runs/student-1")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_out_with_resume_starts_or_resumes(desk: Path) -> None:
    command = ("student", *QUICK, *EPOCHS, "-o", "mine", "--resume")
    kill_command(*command)
    kill_command(*command)
    assert "Continuing after step 10 of 15." in succeed(*command)
    assert_same_student(Path("mine"), Path("unstopped"))
    assert "mine is finished; there is nothing to resume" in refuse(*command)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--set", "stage2.epochs=4"), "config.stage2.epochs was 3, now 4"),
        (("--set", "seed=3"), "config.seed was 0, now 3"),
        (("--bank", "none"), "config.supervision was part, now none"),
        (("--data", "synthetic:tiny:1", "--set", "trust_pids=true"), "data.name was synthetic:t"),
    ],
)
def test_changed_settings_are_refused(
    desk: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    kill_command("student", *QUICK, *EPOCHS)
    assert sentence in refuse("student", "--resume", *arguments)
    succeed("student", "--resume", *QUICK, *EPOCHS)  # repeated settings are equal
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_edited_config_is_refused(desk: Path) -> None:
    kill_command("student", *QUICK, *EPOCHS)
    config = Path("runs/student-1/config.yaml")
    config.write_text(config.read_text().replace("epochs: 3", "epochs: 2"))
    assert "config.stage2.epochs was 3, now 2" in refuse("student", "--resume")


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("bounding_box_train/*.jpg", "data.images was"),
        ("parsing/bounding_box_train/*.png", "data.maps was"),
    ],
)
def test_changed_data_are_refused(desk: Path, pattern: str, named: str) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill_command("student", *QUICK, "--data", "market1501:market", step=3)
    min(Path("market").glob(pattern)).unlink()
    assert named in refuse("student", "--resume")


@pytest.mark.parametrize("command", ["teach", "student"])
@pytest.mark.parametrize(
    ("pattern", "place", "named", "other"),
    [
        # The resolution in a JPEG's header and the checksum at a PNG's end: equal pixels.
        ("bounding_box_train/*.jpg", 15, "contents.images was", "contents.maps"),
        ("parsing/bounding_box_train/*.png", -1, "contents.maps was", "contents.images"),
    ],
)
def test_changed_bytes_of_equal_length_are_refused(
    desk: Path, command: str, pattern: str, place: int, named: str, other: str
) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill_command(command, *QUICK, "--data", "market1501:market", "--no-cache", step=3)
    changed = min(Path("market").glob(pattern))
    original = changed.read_bytes()
    edited = bytearray(original)
    edited[place] ^= 1
    changed.write_bytes(edited)
    for how in ((), ("--no-cache",)):
        output = refuse(command, "--resume", *how)
        assert named in output
        assert other not in output
    changed.write_bytes(original)
    succeed(command, "--resume")


def test_moved_data_are_accepted(desk: Path) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill_command("student", *QUICK, "--data", "market1501:market", step=3)
    Path("market").rename("moved")
    Path("market").symlink_to("moved")
    succeed("student", "--resume")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("student", "--resume"), "No unfinished student run in"),
        (("student", "--resume", "nowhere"), "nowhere contains no run to resume"),
        (("student", "--resume", "unstopped"), "unstopped is finished"),
        (("student", "--resume", "taught"), "taught was started by `pivl-distill teach`"),
        (("student", "--resume", "runs/x", "-o", "y"), "--resume RUN writes to the folder of that"),
    ],
)
def test_runs_that_cannot_be_resumed(desk: Path, arguments: tuple[str, ...], sentence: str) -> None:
    shutil.copytree("runs/teach-1", "taught")
    Path("taught/run.json").unlink()
    assert sentence in refuse(*arguments)


def test_bank_of_other_people_with_equal_ids_is_refused(desk: Path) -> None:
    other = ("student", *QUICK, "--data", f"market1501:{cached_dataset('tiny', 1)}")
    output = refuse(*other)
    assert "made from synthetic:tiny and shares no training image with 8 of 8 identities" in output
    succeed(*other, "--set", "trust_pids=true")


def test_bank_serves_a_moved_subset_of_its_data(desk: Path) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    train = sorted(Path("market/bounding_box_train").glob("*.jpg"))
    for path in [path for path in train if path.name[:4] <= "0003"] + train[-2:]:
        path.unlink()
    succeed("student", *QUICK, "--data", "market1501:market")


def test_a_diverged_run_continues_with_a_lower_learning_rate(desk: Path) -> None:
    """The first epoch is a warm-up, in which a rate of 1e30 becomes too high after a few steps."""
    run = "runs/student-1"
    output = refuse("student", *QUICK, *EPOCHS, "--set", "stage2.learning_rate=1e30")
    assert "Training the student (stage reid) diverged in epoch 1 of 3, step " in output
    assert "stage2.learning_rate (now 1e+30)" in output
    assert f"`pivl-distill student --resume {run} --set stage2.learning_rate=VALUE`" in output
    lower = ("--set", "stage2.learning_rate=0.001")
    output = succeed("student", "--resume", run, *lower)
    assert "continues with changed settings: stage2.learning_rate 1e+30 → 0.001." in output
    (change,) = json.loads(Path(run, "run.json").read_text())["changed_settings"]
    assert change["settings"] == {"stage2.learning_rate": {"before": 1e30, "after": 0.001}}
    assert "learning_rate: 0.001" in Path(run, "config.yaml").read_text()
    assert "NaN" not in Path(run, "metrics.jsonl").read_text()
    succeed("student", *QUICK, *EPOCHS, *lower)
    assert_same_student(Path(run), Path("runs/student-2"))
