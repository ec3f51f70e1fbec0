"""What `teach` makes of its settings, and that it may be killed between and within its stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import teachers.teach
import teachers.tuning
from pivl_distill import resume
from pivl_distill.bank import KIND
from pivl_distill.checkpoint import load_tensors, save_tensors
from pivl_distill.config import ClipSettings, TeachConfig, load_config
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.runs import Run
from pivl_distill.training import Stage2
from teachers.teach import BANK_FILE, TEACHER_FILE, teach, vit_options_of
from teachers.towers import ViTOptions


def dataset_seen_by(*camids: int | None) -> ReIDDataset:
    records = tuple(Record(Path(f"{n}.jpg"), n, camid) for n, camid in enumerate(camids))
    return ReIDDataset("planted", Path(), records, records, records)


def test_without_a_coefficient_no_camera_vectors_are_learned() -> None:
    options = vit_options_of(ClipSettings(stride_px=12), dataset_seen_by(0, 1))
    assert options == ViTOptions(12)


def test_with_a_coefficient_every_camera_gets_a_vector() -> None:
    settings = ClipSettings(stride_px=16, sie_coefficient=0.5)
    assert vit_options_of(settings, dataset_seen_by(0, 4)) == ViTOptions(16, 5, 0.5)


def test_camera_vectors_of_unknown_cameras_are_refused() -> None:
    with pytest.raises(PivlError, match="which camera"):
        vit_options_of(ClipSettings(sie_coefficient=1.0), dataset_seen_by(None, None))


QUICK = load_config(TeachConfig, "teach", "quick", {"stage2.epochs": 2})


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(owner: Any, name: str, call: int) -> Iterator[None]:
    """The given call of a function, counted from 1, is not lived through."""
    function, calls = getattr(owner, name), iter(range(1, call + 1))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) == call:
            raise Killed
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, deadly)
        with pytest.raises(Killed):
            yield


def without_clocks(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for its date and its times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    facts = json.loads((run / "run.json").read_text())
    kind, tensors, bank_facts = load_tensors(run / BANK_FILE, KIND)
    del facts["seconds"], bank_facts["provenance"]["date"]
    save_tensors(run / BANK_FILE, kind, tensors, bank_facts)
    return {
        "bank": (run / BANK_FILE).read_bytes(),
        "teacher": (run / TEACHER_FILE).read_bytes(),
        "metrics": [
            {key: value for key, value in json.loads(line).items() if key != "crops_per_s"}
            for line in lines
        ],
        "facts": facts,
    }


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return without_clocks(teach(QUICK, tmp_path_factory.mktemp("teach") / "unstopped").run)


def test_killed_anywhere_it_goes_on_to_the_same_bank_teacher_and_metrics(
    tmp_path: Path, unstopped: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(QUICK, run)
    for owner, name, call in [
        (teachers.tuning, "identity_loss", 3),
        (teachers.tuning, "identity_loss", 8),  # in the second epoch
        (teachers.tuning, "part_loss", 5),
        (teachers.teach, "bank_texts", 1),
        (teachers.teach, "read_bank", 1),
        (teachers.teach, "sha256", 1),  # the bank is there, but nobody knows
        (teachers.teach, "Teacher", 1),
        (Stage2, "step", 1),
        (Stage2, "step", 7),  # in the second epoch
        (Stage2, "step", 2),
        (teachers.teach, "save_teacher", 1),
        (teachers.teach, "evaluate_model", 1),
        (Run, "finish", 1),
    ]:
        with killed_at(owner, name, call):
            teach(QUICK, resume=run)
    assert teach(QUICK, resume=run).run == run
    assert without_clocks(run) == unstopped
    assert not (run / "state").exists()


def test_what_a_later_stage_builds_on_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with killed_at(Stage2, "step", 1):
        teach(QUICK, run)
    for name in ("encode_crops", "tune_prompts", "bank_texts", "read_bank"):
        monkeypatch.setattr(teachers.teach, name, None)
    teach(QUICK, resume=run)


def test_killed_after_its_end_it_is_finished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with killed_at(resume.shutil, "rmtree", 1):
        teach(QUICK, run)
    assert Run.open(run).kind == "teach"
    with pytest.raises(PivlError, match="is finished; there is nothing to continue"):
        teach(QUICK, resume=run)


def other_bank(run: Path) -> None:
    kind, tensors, facts = load_tensors(run / BANK_FILE, KIND)
    save_tensors(run / BANK_FILE, kind, {**tensors, "part": tensors["part"] + 1}, facts)


def no_bank(run: Path) -> None:
    (run / BANK_FILE).unlink()


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [(other_bank, r"begun with something else:\n  bank was"), (no_bank, "No prompt bank at")],
)
def test_the_teacher_takes_no_other_bank_than_its_own(
    tmp_path: Path, tamper: Callable[[Path], None], sentence: str
) -> None:
    run = tmp_path / "run"
    with killed_at(Stage2, "step", 6):
        teach(QUICK, run)
    tamper(run)
    with pytest.raises(PivlError, match=sentence):
        teach(QUICK, resume=run)


def test_random_weights_depend_on_the_seed(tmp_path: Path) -> None:
    """So that a CLIP without weights is the same one when the run goes on."""
    config = QUICK.model_copy(update={"clip": ClipSettings(weights="none")})
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(config, tmp_path / "run")
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(config, resume=tmp_path / "run")
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(PivlError, match="clip was"):
        teach(other, resume=tmp_path / "run")
