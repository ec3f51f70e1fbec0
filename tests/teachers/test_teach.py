"""`teach`: CLIP and text features from settings, and bit-identical resume after any kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import teachers.stage1_losses
import teachers.teach
from pivl_distill.bank import KIND, PromptBank
from pivl_distill.config import ClipSettings, LossSettings, TeachConfig, load_config
from pivl_distill.errors import PivlError
from pivl_distill.runs import progress
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import BANK_FILE, TEACHER_FILE
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training import stage2_run
from pivl_distill.training.trainer import Stage2Trainer
from teachers.inputs import fusion_head_settings
from teachers.probes import BankProbe
from teachers.teach import make_text_features, teach, warn_of_equal_texts

QUICK = load_config(TeachConfig, "teach", "quick", {"stage2.epochs": 2})


class Killed(BaseException):
    """Raised where the test simulates the end of the process."""


@contextmanager
def killed_at(owner: Any, name: str, call: int) -> Iterator[None]:
    """Raise Killed at the given call of a function, counted from 1."""
    function, calls = getattr(owner, name), iter(range(1, call + 1))

    def raise_at_call(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) == call:
            raise Killed
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, raise_at_call)
        with pytest.raises(Killed):
            yield


def results_without_times(run: Path) -> dict[str, Any]:
    """Return the results of a run without dates and times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    metadata = json.loads((run / "run.json").read_text())
    kind, tensors, bank_metadata = load_tensors(run / BANK_FILE, KIND)
    del metadata["seconds"], bank_metadata["provenance"]["date"]
    save_tensors(run / BANK_FILE, kind, tensors, bank_metadata)
    return {
        "bank": (run / BANK_FILE).read_bytes(),
        "teacher": (run / TEACHER_FILE).read_bytes(),
        "metrics": [
            {key: value for key, value in json.loads(line).items() if key != "crops_per_s"}
            for line in lines
        ],
        "metadata": metadata,
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results_without_times(
        teach(QUICK, tmp_path_factory.mktemp("teach") / "uninterrupted").run
    )


@pytest.mark.slow
def test_resume_after_kills_is_bit_identical(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    run = tmp_path / "run"
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(QUICK, run)
    for owner, name, call in [
        (teachers.stage1_losses, "identity_loss", 3),
        (teachers.stage1_losses, "identity_loss", 8),  # in the second epoch
        (teachers.stage1_losses, "part_loss", 5),
        (teachers.teach, "encode_bank_texts", 1),
        (teachers.teach, "probe_bank", 1),
        (teachers.teach, "sha256", 1),  # the bank is written but not pinned
        (teachers.teach, "Teacher", 1),
        (Stage2Trainer, "step", 1),
        (Stage2Trainer, "step", 7),  # in the second epoch
        (Stage2Trainer, "step", 2),
        (teachers.teach, "save_teacher", 1),
        (stage2_run, "evaluate_model", 1),
        (Run, "finish", 1),
    ]:
        with killed_at(owner, name, call):
            teach(QUICK, resume=run)
    assert teach(QUICK, resume=run).run == run
    assert results_without_times(run) == uninterrupted
    assert not (run / "state").exists()


def test_finished_stage_1_is_not_repeated_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with killed_at(Stage2Trainer, "step", 1):
        teach(QUICK, run)
    for name in ("encode_crops", "tune_prompts", "encode_bank_texts", "probe_bank"):
        monkeypatch.setattr(teachers.teach, name, None)
    teach(QUICK, resume=run)


def test_kill_while_state_is_removed_leaves_a_finished_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with killed_at(progress.shutil, "rmtree", 1):
        teach(QUICK, run)
    assert Run.open(run).kind == "teach"
    with pytest.raises(PivlError, match="is finished; there is nothing to resume"):
        teach(QUICK, resume=run)


def change_bank(run: Path) -> None:
    kind, tensors, metadata = load_tensors(run / BANK_FILE, KIND)
    save_tensors(run / BANK_FILE, kind, {**tensors, "part": tensors["part"] + 1}, metadata)


def delete_bank(run: Path) -> None:
    (run / BANK_FILE).unlink()


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (change_bank, r"started with something else:\n  bank was"),
        (delete_bank, "No prompt bank at"),
    ],
)
def test_resume_refuses_another_bank(
    tmp_path: Path, tamper: Callable[[Path], None], sentence: str
) -> None:
    run = tmp_path / "run"
    with killed_at(Stage2Trainer, "step", 6):
        teach(QUICK, run)
    tamper(run)
    with pytest.raises(PivlError, match=sentence):
        teach(QUICK, resume=run)


def test_random_weights_depend_only_on_the_seed(tmp_path: Path) -> None:
    """A resumed run has the same random CLIP; another seed is refused."""
    config = QUICK.model_copy(update={"clip": ClipSettings(weights="none")})
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(config, tmp_path / "run")
    with killed_at(teachers.teach, "encode_crops", 1):
        teach(config, resume=tmp_path / "run")
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(PivlError, match="clip was"):
        teach(other, resume=tmp_path / "run")


@pytest.mark.parametrize("supervision", ["identity", "label", "part"])
def test_supervision_selects_the_text_features(prompt_bank: PromptBank, supervision) -> None:
    loss = LossSettings(text_scale="clip")
    config = TeachConfig(supervision=supervision, stage2={"loss": loss})
    text_features = make_text_features(prompt_bank, config)
    assert torch.equal(text_features.identity, prompt_bank.identity)
    assert (fusion_head_settings(config) is None) == (supervision == "identity")
    label_texts = prompt_bank.label.expand_as(prompt_bank.part)
    expected = label_texts if supervision == "label" else prompt_bank.part
    assert torch.equal(text_features.part, expected)


@pytest.mark.parametrize(("cosine", "warns"), [(0.9995, True), (0.99, False), (None, False)])
def test_equal_texts_of_a_bank_are_warned_of(cosine, warns, caplog) -> None:
    warn_of_equal_texts(BankProbe(1.0, None, None, identity_cosine=cosine))
    assert ("texts of all identities in the bank are nearly equal" in caplog.text) == warns
