"""Decoded crops and features on disk: nothing of it without them, and the same results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from command_line import QUICK, succeed
from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from pivl_distill.training.stage2 import Stage2Trainer


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with no cache, with an empty one and with what the run before left in it."""
    people = cached_dataset("tiny")
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PIVL_DISTILL_CACHE", str(folder / "cache"))
        shutil.copytree(people, folder / "cache" / "synthetic" / people.name)
        for out, how in (("none", ("--no-cache",)), ("empty", ()), ("filled", ())):
            succeed("teach", *QUICK, *how, "-o", f"teach-{out}")
            succeed("student", *QUICK, *how, "--bank", "teach-none", "-o", f"student-{out}")
            kept = [path.name for path in Path("cache").iterdir()]
            Path(f"kept-{out}.json").write_text(json.dumps(sorted(kept)))
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the workplace, with the cache in it."""
    shutil.copytree(workplace, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "desk" / "cache"))


def entries() -> set[Path]:
    return set(Path("cache").glob("*/*"))


def test_without_a_cache_nothing_is_written() -> None:
    assert json.loads(Path("kept-none.json").read_text()) == ["synthetic"]
    assert json.loads(Path("kept-empty.json").read_text()) == ["crops", "features", "synthetic"]


@pytest.mark.parametrize("other", ["empty", "filled"])
def test_results_are_the_same_with_a_cache_and_without(other: str) -> None:
    for kind in ("teach", "student"):
        file = {"teach": "teacher.safetensors", "student": "student.safetensors"}[kind]
        without, with_one = Path(f"{kind}-none", file), Path(f"{kind}-{other}", file)
        assert without.read_bytes() == with_one.read_bytes()
    banks = [
        PromptBank.load(Path(f"teach-{o}", "prompt_bank.safetensors")) for o in ("none", other)
    ]
    for name in ("identity", "part", "label", "present"):
        assert torch.equal(*(getattr(bank, name) for bank in banks)), name
    metadata = [{k: v for k, v in bank.provenance.items() if k != "date"} for bank in banks]
    assert metadata[0] == metadata[1]


def test_training_query_gallery_and_maps_are_kept() -> None:
    assert len(list(Path("cache/crops").iterdir())) == 4
    assert len(list(Path("cache/features").iterdir())) == 1


def test_a_student_of_a_teacher_without_a_cache_has_its_own() -> None:
    config = yaml.safe_load(Path("teach-none", "config.yaml").read_text())
    assert config["teach"]["data"]["crop_cache_gib"] == 0
    assert config["teach"]["tuning"]["feature_cache_gib"] == 0
    succeed("student", *("--set", "stage2.epochs=1"), "--bank", "teach-none", "-o", "own")
    data = yaml.safe_load(Path("own", "config.yaml").read_text())["student"]["data"]
    assert data == {**config["teach"]["data"], "crop_cache_gib": 20.0}
    again = ("--set", "stage2.epochs=1", "--no-cache", "--bank", "teach-filled")
    succeed("student", *again, "-o", "again")  # the teacher's data none the less
    data = yaml.safe_load(Path("again", "config.yaml").read_text())["student"]["data"]
    assert data == config["teach"]["data"]


def test_a_dry_run_writes_nothing() -> None:
    shutil.rmtree("cache/crops")
    before = entries()
    succeed("student", *QUICK, "--bank", "teach-none", "--dry-run")
    succeed("teach", *QUICK, "--dry-run")
    assert entries() == before


def test_a_run_may_go_on_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    step, done = Stage2Trainer.step, []

    def stops(self: Stage2Trainer, *args: object) -> object:
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stage2Trainer, "step", stops)
        run = ("student", *QUICK, "--bank", "teach-none", "-o", "stopped")
        assert CliRunner().invoke(main, run).exit_code == 130
    succeed("student", "--resume", "stopped", "--no-cache")
    file = "student.safetensors"
    assert Path("stopped", file).read_bytes() == Path("student-none", file).read_bytes()


def test_test_crops_are_kept_unless_told_not_to() -> None:
    shutil.rmtree("cache/crops")
    succeed("evaluate", "student-filled", "--no-cache")
    assert not Path("cache/crops").exists()
    succeed("evaluate", "student-filled")
    assert len(list(Path("cache/crops").iterdir())) == 2


@pytest.mark.parametrize(("how", "limit"), [((), 20.0), (("--no-cache",), 0)])
def test_export_verifies_on_crops_that_are_kept_or_not(
    monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...], limit: float
) -> None:
    limits = []

    def load(dataset: object, size_hw: object, cache_gib: float) -> None:
        limits.append(cache_gib)
        raise PivlError("enough seen")

    monkeypatch.setattr(QueryGalleryCrops, "load", load)
    assert CliRunner().invoke(main, ("export", "student-filled", *how)).exit_code == 2
    assert limits == [limit]
