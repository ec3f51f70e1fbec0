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
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.runs import progress
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import BANK_FILE, TEACHER_FILE
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training import stage2_run
from pivl_distill.training.trainer import Stage2Trainer
from teachers.clip import CLIP_MEAN, CLIP_STD
from teachers.clip_reid_checkpoint import parse_checkpoint
from teachers.image_encoders import ViTOptions
from teachers.probes import BankProbe
from teachers.teach import (
    build_clip,
    fusion_head_settings,
    make_text_features,
    make_vit_options,
    part_vocabulary,
    teach,
    warn_of_equal_texts,
)


def dataset_with_cameras(*camids: int | None) -> ReIDDataset:
    records = tuple(Record(Path(f"{n}.jpg"), n, camid) for n, camid in enumerate(camids))
    return ReIDDataset("planted", Path(), records, records, records)


def test_without_sie_coefficient_there_are_no_camera_embeddings() -> None:
    options = make_vit_options(ClipSettings(stride_px=12), dataset_with_cameras(0, 1))
    assert options == ViTOptions(12)


def test_with_sie_coefficient_every_camera_has_an_embedding() -> None:
    settings = ClipSettings(stride_px=16, sie_coefficient=0.5)
    assert make_vit_options(settings, dataset_with_cameras(0, 4)) == ViTOptions(16, 5, 0.5)


def test_camera_embeddings_need_known_cameras() -> None:
    with pytest.raises(PivlError, match="which camera"):
        make_vit_options(ClipSettings(sie_coefficient=1.0), dataset_with_cameras(None, None))


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


@pytest.mark.parametrize("cameras", [0, 6])
def test_clip_reid_checkpoint_provides_the_encoders(checkpoint_and_base, tmp_path, cameras) -> None:
    state, words = checkpoint_and_base(cameras)
    torch.save(state, tmp_path / "reid.pth")
    settings = ClipSettings(
        name="small-reid",
        weights=str(tmp_path / "reid.pth"),
        base=str(words),
        stride_px=12 if cameras else None,
        sie_coefficient=0.5 if cameras else 0.0,
    )
    dataset = dataset_with_cameras(*range(6))
    clip = build_clip(settings, (256, 128), dataset)
    checkpoint = parse_checkpoint(state, "reid.pth", 0.5).clip
    images = torch.randn(2, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for camera_arguments in ([torch.tensor([0, 3])], []) if cameras else ([],):
            ours, theirs = (c.image.eval()(images, *camera_arguments) for c in (clip, checkpoint))
            torch.testing.assert_close(ours.projected, theirs.projected)
        assert clip.text.encode(["a photo of a person"]).shape == (1, 24)
    assert clip.weights_sha256 != checkpoint.weights_sha256  # the token table is hashed too
    with pytest.raises(PivlError, match=r"differ\. Name the CLIP it was fine-tuned from"):
        build_clip(settings.model_copy(update={"base": "none"}), (256, 128), dataset)


@pytest.mark.parametrize(
    ("changes", "size_hw", "difference"),
    [
        ({"name": "RN50"}, (256, 128), "not RN50 for crops of 256×128"),
        ({}, (128, 64), "not small-reid for crops of 128×64"),
        ({"stride_px": 12}, (256, 128), "not small-reid .* with stride 12 and no camera"),
        ({"sie_coefficient": 1.0}, (256, 128), "not small-reid .* and 6 camera embeddings"),
    ],
)
def test_settings_that_contradict_a_checkpoint_raise(
    checkpoint_and_base, tmp_path, changes, size_hw, difference
) -> None:
    state, words = checkpoint_and_base()
    torch.save(state, tmp_path / "reid.pth")
    settings = ClipSettings(name="small-reid", weights=str(tmp_path / "reid.pth"), base=str(words))
    settings = settings.model_copy(update=changes)
    message = f"holds small-reid for crops of 256×128 with patches side by side.*{difference}"
    with pytest.raises(PivlError, match=message):
        build_clip(settings, size_hw, dataset_with_cameras(*range(6)))


@pytest.mark.parametrize("pixels", ["reid", "clip"])
def test_pixel_normalisation_follows_the_setting(pixels) -> None:
    settings = ClipSettings(name="tiny_rn", weights="none", pixels=pixels)
    clip = build_clip(settings, (128, 64), dataset_with_cameras(0))
    assert ((clip.mean, clip.std) == (CLIP_MEAN, CLIP_STD)) == (pixels == "clip")


def test_part_maps_are_required_if_part_prompts_are_learned() -> None:
    without = dataset_with_cameras(0, 1)
    some = ReIDDataset("mapped", Path(), without.train, without.query, without.gallery, LIP20)
    assert part_vocabulary(TeachConfig(), some) is LIP20
    identity = TeachConfig(supervision="identity", tuning={"part_epochs": 0})
    assert part_vocabulary(identity, some) is None
    assert part_vocabulary(identity, without) is None
    for config in (
        TeachConfig(),
        TeachConfig(supervision="identity"),
        TeachConfig(supervision="label", tuning={"part_epochs": 0}),
    ):
        with pytest.raises(PivlError, match=r"planted has no parsing maps.*supervision=identity"):
            part_vocabulary(config, without)


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
