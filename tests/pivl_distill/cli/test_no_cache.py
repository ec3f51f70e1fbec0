"""The cache of crops and features: `--no-cache` writes nothing and gives the same results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from command_line import QUICK, succeed, work_in_copy
from pivl_distill.bank import PromptBank
from pivl_distill.cli import main
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from pivl_distill.training.trainer import Stage2Trainer


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs without a cache, with an empty one, and with one that the run before filled."""
    people = cached_dataset("tiny")
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PIVL_DISTILL_CACHE", str(folder / "cache"))
        shutil.copytree(people, folder / "cache" / "synthetic" / people.name)
        for out, how in (("none", ("--no-cache",)), ("empty", ()), ("filled", ())):
            succeed("teach", *QUICK, *how, "-o", f"teach-{out}")
            succeed("student", *QUICK, *how, "--bank", "teach-none", "-o", f"student-{out}")
            names = [path.name for path in Path("cache").iterdir()]
            Path(f"cached-{out}.json").write_text(json.dumps(sorted(names)))
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of these runs and their cache, as working directory."""
    desk = work_in_copy(workplace, tmp_path, monkeypatch)
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(desk / "cache"))


def entries() -> set[Path]:
    return set(Path("cache").glob("*/*"))


def test_no_cache_writes_no_entries() -> None:
    assert json.loads(Path("cached-none.json").read_text()) == ["synthetic"]
    assert json.loads(Path("cached-empty.json").read_text()) == ["crops", "features", "synthetic"]


@pytest.mark.parametrize("other", ["empty", "filled"])
def test_results_do_not_depend_on_the_cache(other: str) -> None:
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


def test_training_query_gallery_and_maps_are_cached() -> None:
    assert len(list(Path("cache/crops").iterdir())) == 4
    assert len(list(Path("cache/features").iterdir())) == 1


def test_no_cache_of_the_teacher_is_not_inherited() -> None:
    config = yaml.safe_load(Path("teach-none", "config.yaml").read_text())
    assert config["teach"]["data"]["crop_cache_gib"] == 0
    assert config["teach"]["tuning"]["feature_cache_gib"] == 0
    small = ("--set", "stage2.epochs=1", "--set", "stage2.identities_per_batch=4")
    succeed("student", *small, "--bank", "teach-none", "-o", "default")
    data = yaml.safe_load(Path("default", "config.yaml").read_text())["student"]["data"]
    assert data == {**config["teach"]["data"], "crop_cache_gib": 20.0}
    again = (*small, "--no-cache", "--bank", "teach-filled")
    succeed("student", *again, "-o", "again")  # the other data settings are the teacher's
    data = yaml.safe_load(Path("again", "config.yaml").read_text())["student"]["data"]
    assert data == config["teach"]["data"]


def test_dry_run_writes_no_entries() -> None:
    shutil.rmtree("cache/crops")
    before = entries()
    succeed("student", *QUICK, "--bank", "teach-none", "--dry-run")
    succeed("teach", *QUICK, "--dry-run")
    assert entries() == before


def test_resume_with_no_cache_is_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = Stage2Trainer.step, []

    def interrupted_step(self: Stage2Trainer, *args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stage2Trainer, "step", interrupted_step)
        run = ("student", *QUICK, "--bank", "teach-none", "-o", "stopped")
        assert CliRunner().invoke(main, run).exit_code == 130
    succeed("student", "--resume", "stopped", "--no-cache")
    file = "student.safetensors"
    assert Path("stopped", file).read_bytes() == Path("student-none", file).read_bytes()


def test_evaluate_caches_crops_unless_no_cache() -> None:
    shutil.rmtree("cache/crops")
    succeed("evaluate", "student-filled", "--no-cache")
    assert not Path("cache/crops").exists()
    succeed("evaluate", "student-filled")
    assert len(list(Path("cache/crops").iterdir())) == 2


@pytest.mark.parametrize(("how", "limit"), [((), 20.0), (("--no-cache",), 0)])
def test_export_passes_the_cache_limit(
    monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...], limit: float
) -> None:
    limits = []

    def load(dataset: object, size_hw: object, cache_gib: float) -> None:
        limits.append(cache_gib)
        raise PivlError("stop here")

    monkeypatch.setattr(QueryGalleryCrops, "load", load)
    assert CliRunner().invoke(main, ("export", "student-filled", *how)).exit_code == 2
    assert limits == [limit]
