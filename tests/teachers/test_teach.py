"""What `teach` makes of its settings before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.config import ClipSettings, LossSettings, TeachConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from teachers.clip import CLIP_MEAN, CLIP_STD
from teachers.released import from_state
from teachers.teach import (
    head_of,
    part_vocabulary,
    stage2_texts,
    teaching_clip,
    vit_options_of,
)
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


@pytest.mark.parametrize("cameras", [0, 6])
def test_a_clip_reid_checkpoint_may_be_the_clip(worded_checkpoint, tmp_path, cameras) -> None:
    state, words = worded_checkpoint(cameras)
    torch.save(state, tmp_path / "reid.pth")
    settings = ClipSettings(
        name="small-reid",
        weights=str(tmp_path / "reid.pth"),
        base=str(words),
        stride_px=12 if cameras else None,
        sie_coefficient=0.5 if cameras else 0.0,
    )
    dataset = dataset_seen_by(*range(6))
    clip = teaching_clip(settings, (256, 128), dataset)
    released = from_state(state, "reid.pth", 0.5).clip
    images = torch.randn(2, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for seen_by in ([torch.tensor([0, 3])], []) if cameras else ([],):
            ours, theirs = (c.image.eval()(images, *seen_by) for c in (clip, released))
            torch.testing.assert_close(ours.projected, theirs.projected)
        assert clip.text.encode(["a photo of a person"]).shape == (1, 24)
    assert clip.weights_sha256 != released.weights_sha256  # it has words
    with pytest.raises(PivlError, match=r"differs\. Name the CLIP it was fine-tuned from"):
        teaching_clip(settings.model_copy(update={"base": "none"}), (256, 128), dataset)


@pytest.mark.parametrize(
    ("changes", "size_hw", "difference"),
    [
        ({"name": "RN50"}, (256, 128), "not RN50 for crops of 256×128"),
        ({}, (128, 64), "not small-reid for crops of 128×64"),
        ({"stride_px": 12}, (256, 128), "not small-reid .* with stride 12 and no camera"),
        ({"sie_coefficient": 1.0}, (256, 128), "not small-reid .* and 6 camera vectors"),
    ],
)
def test_settings_that_contradict_a_checkpoint_are_refused(
    worded_checkpoint, tmp_path, changes, size_hw, difference
) -> None:
    state, words = worded_checkpoint()
    torch.save(state, tmp_path / "reid.pth")
    settings = ClipSettings(name="small-reid", weights=str(tmp_path / "reid.pth"), base=str(words))
    settings = settings.model_copy(update=changes)
    message = f"holds small-reid for crops of 256×128 with patches side by side.*{difference}"
    with pytest.raises(PivlError, match=message):
        teaching_clip(settings, size_hw, dataset_seen_by(*range(6)))


@pytest.mark.parametrize("pixels", ["reid", "clip"])
def test_pixels_are_normalised_as_reid_or_as_clip_does(pixels) -> None:
    settings = ClipSettings(name="tiny_rn", weights="none", pixels=pixels)
    clip = teaching_clip(settings, (128, 64), dataset_seen_by(0))
    assert ((clip.mean, clip.std) == (CLIP_MEAN, CLIP_STD)) == (pixels == "clip")


def test_maps_are_wanted_where_parts_are_learned() -> None:
    without = dataset_seen_by(0, 1)
    some = ReIDDataset("mapped", Path(), without.train, without.query, without.gallery, LIP20)
    assert part_vocabulary(TeachConfig(), some) is LIP20
    identity = TeachConfig(supervision="identity", tuning={"part_epochs": 0})
    assert part_vocabulary(identity, some) is None
    assert part_vocabulary(identity, without) is None
    for wanting in (
        TeachConfig(),
        TeachConfig(supervision="identity"),
        TeachConfig(supervision="label", tuning={"part_epochs": 0}),
    ):
        with pytest.raises(PivlError, match=r"planted has no parsing maps.*supervision=identity"):
            part_vocabulary(wanting, without)


@pytest.mark.parametrize("supervision", ["identity", "label", "part"])
def test_each_row_of_table_3_has_its_texts(prompt_bank: PromptBank, supervision) -> None:
    loss = LossSettings(text_scale="clip")
    config = TeachConfig(supervision=supervision, stage2={"loss": loss})
    texts = stage2_texts(prompt_bank, config)
    assert torch.equal(texts.identity, prompt_bank.identity)
    assert (head_of(config) is None) == (supervision == "identity")
    everyone = prompt_bank.label.expand_as(prompt_bank.part)
    expected = everyone if supervision == "label" else prompt_bank.part
    assert torch.equal(texts.part, expected)
