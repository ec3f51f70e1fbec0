"""Data on which nothing can be measured: refused, or trained on with `--no-evaluation`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import QUICK, end, refuse, succeed, work_in_copy
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.training import stage2_run

PLAIN = (*QUICK, "--set", "stage2.compile=false")
STUDENT = ("student", *PLAIN, "--bank", "none", "--data", "market1501:people")
TEACH = (
    *("teach", *PLAIN, "--data", "market1501:people", "--set", "supervision=identity"),
    *("--set", "tuning.part_epochs=0", "--set", "tuning.identity_epochs=1"),
)
FLAG = "--no-evaluation"


def use_one_camera(root: Path) -> None:
    """Leave only the first camera in query and gallery."""
    for folder in ("query", "bounding_box_test"):
        for image in (root / folder).iterdir():
            if "_c1s" not in image.name:
                image.unlink()
    for image in list((root / "bounding_box_test").iterdir())[::2]:
        shutil.copy(image, root / "query")


@pytest.fixture(scope="session")
def trained(make_once: Callable[[str, Callable[[], None]], Path]) -> Path:
    """A folder with one-camera people, and a teacher and a student of them."""

    def make() -> None:
        shutil.copytree(cached_dataset("tiny"), "people")
        shutil.rmtree("people/parsing")
        use_one_camera(Path("people"))
        Path("output.txt").write_text(succeed(*TEACH, FLAG) + "\n" + succeed(*STUDENT, FLAG))

    return make_once("without evaluation", make)


@pytest.fixture
def desk(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy as working folder."""
    return work_in_copy(trained, tmp_path, monkeypatch)


def test_without_the_flag_the_refusal_names_it(desk: Path) -> None:
    before = sorted(desk.rglob("*"))
    for command in (TEACH, STUDENT, (*STUDENT, "--dry-run")):
        output = refuse(*command)
        assert "from one camera, so no query has a match" in output
        assert f"train on it without scores by adding {FLAG}." in output
    assert sorted(desk.rglob("*")) == before


def test_runs_finish_and_say_that_nothing_was_measured(desk: Path) -> None:
    output = (desk / "output.txt").read_text()
    assert output.count("mAP, Rank-1 not measured (--no-evaluation)") == 2
    for run in ("runs/teach-1", "runs/student-1"):
        assert json.loads((desk / run / "run.json").read_text())["retrieval"] is None
        assert "evaluation: false" in (desk / run / "config.yaml").read_text()


@pytest.mark.parametrize("run", ["runs/student-1", "runs/teach-1"])
def test_networks_without_scores_are_exported(desk: Path, run: str) -> None:
    output = succeed("export", run, "-o", "deploy", "--data", "market1501:people")
    assert "not measured: the network was trained with --no-evaluation" in output
    manifest = json.loads(Path("deploy/manifest.json").read_text())
    assert manifest["not_measured"].startswith("not measured: ")
    (artifact,) = manifest["artifacts"]
    assert (artifact["status"], artifact["retrieval"], artifact["thresholds"]) == (
        "verified",
        None,
        [],
    )
    assert artifact["parity"]["min_cosine"] > 0.9999
    assert "not measured" in succeed("bench", "deploy", "--seconds", "0", "--batch", "1")
    assert "no mAP" in refuse("bench", "deploy", "--plot", "bench.png")
    for target in (run, "deploy"):
        output = refuse("evaluate", target)
        assert "Nothing can be measured on" in output
        assert "Name another data set with --data." in output
        assert "Rank-1" in succeed("evaluate", target, "--data", "synthetic:tiny")


def test_export_on_data_without_a_match_is_refused_before_it_starts(desk: Path) -> None:
    shutil.copytree("people", "others")
    output = refuse("export", "runs/student-1", "-o", "deploy", "--data", "market1501:others")
    assert "Name another data set with --data." in output
    assert not Path("deploy").exists()


def test_data_without_query_and_gallery_can_be_trained_on(desk: Path) -> None:
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(f"people/{folder}")
    assert "its query and gallery have no images" in refuse(*STUDENT)
    rows = succeed(*STUDENT, FLAG, "--dry-run")
    assert "not measured" in rows
    assert "splits without images" in end(3, "check", "market1501:people")
    succeed("export", "runs/student-1", "-o", "deploy")


def test_a_trained_network_whose_evaluation_fails_is_not_lost(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = cached_dataset("tiny")
    shutil.copytree(people, "whole")
    command = [word.replace("people", "whole") for word in STUDENT]

    def lose_query(*arguments: object) -> None:
        shutil.rmtree("whole/query")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage2_run, "evaluate_model", lose_query)
        end(130, *command, "-o", "run")
    assert not Path("run/run.json").exists()
    output = refuse("student", "--resume", "run")
    assert "its query has no images" in output
    assert FLAG in output
    assert "not measured" in succeed("student", "--resume", "run", FLAG)
    assert "evaluation: false" in Path("run/config.yaml").read_text()
    succeed("export", "run", "-o", "deploy")
