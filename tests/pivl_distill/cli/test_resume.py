"""Stopping and continuing as a user does it: real signals, real processes, and what is said."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import QUICK, refuse, run, succeed
from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.training import Stage2


class Killed(BaseException):
    """The process ends here."""


def kill(*arguments: str | Path, step: int = 7) -> None:
    """Run a command whose process ends before this step of stage 2, five of which are an epoch."""
    done, count = Stage2.step, iter(range(1, step + 1))

    def deadly(self: Stage2, *args: Any) -> Any:
        if next(count) == step:
            raise Killed
        return done(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage2, "step", deadly)
        with pytest.raises(Killed):
            run(*arguments)


def metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in ln.items() if key != "crops_per_s"} for ln in lines]


def assert_same_student(path: Path, other: Path) -> None:
    first, second = (folder / "student.safetensors" for folder in (path, other))
    assert first.read_bytes() == second.read_bytes()
    assert metrics(path) == metrics(other)


def assert_same_teach(path: Path, other: Path) -> None:
    """A bank has a date, and so other bytes."""
    first, second = (folder / "teacher.safetensors" for folder in (path, other))
    assert first.read_bytes() == second.read_bytes()
    banks = [PromptBank.load(folder / "prompt_bank.safetensors") for folder in (path, other)]
    for name in ("identity", "part", "label", "present"):
        assert torch.equal(*(getattr(bank, name) for bank in banks)), name
    facts = [
        {key: value for key, value in bank.provenance.items() if key != "date"} for bank in banks
    ]
    assert facts[0] == facts[1]
    assert banks[0].images == banks[1].images
    assert metrics(path) == metrics(other)


EPOCHS = ("--set", "stage2.epochs=3")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teach run, and a student in one go."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("teach", *QUICK)
        succeed("student", *QUICK, *EPOCHS, "-o", "unstopped")
    return folder


@pytest.fixture
def desk(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own with that teach run."""
    shutil.copytree(workplace, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def test_a_student_is_continued_without_being_named(desk: Path) -> None:
    kill("student", *QUICK, *EPOCHS)
    said = succeed("student", "--resume")
    assert "Continuing after step 5 of 15." in said
    assert "Student in runs/student-1" in said
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_it_learns_from_the_bank_it_was_begun_with_though_there_is_a_later_one(desk: Path) -> None:
    kill("student", *QUICK, *EPOCHS)
    succeed("teach", *QUICK, "--set", "seed=1")
    said = refuse("student", "--resume", "--bank", "runs/teach-2")
    assert "runs/student-1 was begun with something else: bank.sha256 was " in said
    Path("runs/teach-1").rename("moved")
    assert "No prompt bank at" in refuse("student", "--resume")
    succeed("student", "--resume", "--bank", "moved")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_a_new_run_says_that_the_latest_one_is_unfinished_and_starts_fresh(desk: Path) -> None:
    kill("student", *QUICK, *EPOCHS)
    said = succeed("student", *QUICK, *EPOCHS)
    hint = "runs/student-1 is unfinished; `pivl-distill student --resume runs/student-1` continues"
    assert hint in said
    assert_same_student(Path("runs/student-2"), Path("unstopped"))
    assert "unfinished" not in succeed("student", *QUICK)  # the latest one is finished
    succeed("student", "--resume", "runs/student-1")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_one_command_begins_or_continues(desk: Path) -> None:
    command = ("student", *QUICK, *EPOCHS, "-o", "mine", "--resume")
    kill(*command)
    kill(*command)
    assert "Continuing after step 10 of 15." in succeed(*command)
    assert_same_student(Path("mine"), Path("unstopped"))
    assert "mine is finished; there is nothing to continue" in refuse(*command)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--set", "stage2.epochs=4"), "config.stage2.epochs was 3, now 4"),
        (("--set", "seed=3"), "config.seed was 0, now 3"),
        (("--bank", "none"), "config.supervision was part, now none"),
        (("--data", "synthetic:tiny:1", "--set", "trust_pids=true"), "data.name was synthetic:t"),
    ],
)
def test_settings_cannot_change_on_the_way(
    desk: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    kill("student", *QUICK, *EPOCHS)
    assert sentence in refuse("student", "--resume", *arguments)
    succeed("student", "--resume", *QUICK, *EPOCHS)  # said again, they are the same
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def test_an_edited_configuration_is_noticed(desk: Path) -> None:
    kill("student", *QUICK, *EPOCHS)
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
def test_data_cannot_change_on_the_way(desk: Path, pattern: str, named: str) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill("student", *QUICK, "--data", "market1501:market", step=3)
    min(Path("market").glob(pattern)).unlink()
    assert named in refuse("student", "--resume")


@pytest.mark.parametrize("command", ["teach", "student"])
@pytest.mark.parametrize(
    ("pattern", "place", "named", "other"),
    [
        # The resolution in a JPEG's header, and the checksum of a PNG's end: the same picture.
        ("bounding_box_train/*.jpg", 15, "contents.images was", "contents.maps"),
        ("parsing/bounding_box_train/*.png", -1, "contents.maps was", "contents.images"),
    ],
)
def test_nor_can_bytes_of_the_same_number(
    desk: Path, command: str, pattern: str, place: int, named: str, other: str
) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill(command, *QUICK, "--data", "market1501:market", "--no-cache", step=3)
    changed = min(Path("market").glob(pattern))
    whole = changed.read_bytes()
    edited = bytearray(whole)
    edited[place] ^= 1
    changed.write_bytes(edited)
    for how in ((), ("--no-cache",)):
        said = refuse(command, "--resume", *how)
        assert named in said
        assert other not in said
    changed.write_bytes(whole)
    succeed(command, "--resume")


def test_the_same_bytes_at_another_place_are_the_same_data(desk: Path) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    kill("student", *QUICK, "--data", "market1501:market", step=3)
    Path("market").rename("moved")
    Path("market").symlink_to("moved")
    succeed("student", "--resume")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("student", "--resume"), "No unfinished student run in"),
        (("student", "--resume", "nowhere"), "nowhere holds no run to continue"),
        (("student", "--resume", "unstopped"), "unstopped is finished"),
        (("student", "--resume", "taught"), "taught was begun by `pivl-distill teach`"),
        (("student", "--resume", "runs/x", "-o", "y"), "--resume RUN continues in its own folder"),
    ],
)
def test_what_cannot_be_continued(desk: Path, arguments: tuple[str, ...], sentence: str) -> None:
    shutil.copytree("runs/teach-1", "taught")
    Path("taught/run.json").unlink()
    assert sentence in refuse(*arguments)


def test_a_bank_of_other_people_with_the_same_numbers_is_refused(desk: Path) -> None:
    other = ("student", *QUICK, "--data", f"market1501:{cached_dataset('tiny', 1)}")
    said = refuse(*other)
    assert "made from synthetic:tiny and has seen no training image of 8 of 8 identities" in said
    succeed(*other, "--set", "trust_pids=true")


def test_a_bank_serves_some_of_its_people_wherever_their_crops_lie(desk: Path) -> None:
    shutil.copytree(cached_dataset("tiny"), "market")
    train = sorted(Path("market/bounding_box_train").glob("*.jpg"))
    for path in [path for path in train if path.name[:4] <= "0003"] + train[-2:]:
        path.unlink()
    succeed("student", *QUICK, "--data", "market1501:market")


def test_ctrl_c_stops_between_steps_with_130(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, steps = Stage2.step, iter(range(1, 8))

    def interrupted(self: Stage2, *args: Any) -> Any:
        if next(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return done(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stage2, "step", interrupted)
        result = run("student", *QUICK, *EPOCHS)
    assert result.exit_code == 130
    assert "pivl-distill student --resume runs/student-1" in " ".join(result.output.split())
    assert "Continuing after step 7 of 15." in succeed("student", "--resume")
    assert_same_student(Path("runs/student-1"), Path("unstopped"))


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pivl_distill", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        raise AssertionError(f"it ended first: {process.stderr.read()}")


def test_sigterm_stops_a_command_between_steps_with_143(desk: Path) -> None:
    epochs = ("--set", "tuning.identity_epochs=20")
    process = start("teach", *QUICK, *epochs)
    lines = Path("runs/teach-2/metrics.jsonl")
    wait_for(process, lambda: lines.is_file() and len(lines.read_text().splitlines()) >= 2)
    process.terminate()
    said = " ".join(process.communicate()[1].split())
    assert process.returncode == 143, said
    hint = "runs/teach-2 is unfinished; continue it with `pivl-distill teach --resume runs/teach-2`"
    assert hint in said
    assert "Traceback" not in said
    assert "Continuing after step" in succeed("teach", "--resume")
    succeed("teach", *QUICK, *epochs, "-o", "in-one-go")
    assert_same_teach(Path("runs/teach-2"), Path("in-one-go"))


KILLS = 10


@pytest.fixture(scope="module")
def forks() -> multiprocessing.context.ForkServerContext:
    """Processes that have imported everything and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["teachers.teach", "students.distill"])
    first = context.Process(target=int)  # starts the server, which imports
    first.start()
    first.join()
    return context


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("command", ["teach", "student"])
def test_killed_again_and_again_at_random_moments(
    desk: Path, forks: multiprocessing.context.ForkServerContext, command: str
) -> None:
    """SIGKILL, wherever it hits: reading, encoding, tuning, writing, training, evaluating."""
    from students.distill import distill
    from teachers.teach import teach

    moment = random.Random(0)
    if command == "teach":
        overrides = {"tuning.identity_epochs": 6, "tuning.part_epochs": 6, "stage2.epochs": 6}
        config = load_config(TeachConfig, "teach", "quick", overrides)
        function, arguments = teach, (config,)
    else:
        config = load_config(StudentConfig, "student", "quick", {"stage2.epochs": 12})
        function, arguments = distill, (config, Path("runs/teach-1/prompt_bank.safetensors"))

    def sit(out: Path | None, resume: Path | None, killed_after_s: float | None = None) -> bool:
        """Whether it was killed before its end."""
        process = forks.Process(target=function, args=(*arguments, out, resume))
        process.start()
        process.join(killed_after_s)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    whole, start = Path("whole"), time.monotonic()
    assert not sit(whole, None)
    whole_run_s = time.monotonic() - start
    same = assert_same_teach if command == "teach" else assert_same_student
    kills = 0
    for killed in (Path(f"killed-{number}") for number in itertools.count()):
        while not (killed / "run.json").is_file():
            begun = (killed / "config.yaml").is_file()
            limit = moment.uniform(0, whole_run_s) if kills < KILLS else None
            kills += sit(*((None, killed) if begun else (killed, None)), limit)
        same(killed, whole)
        if kills == KILLS:
            break
