"""Inputs of `teach`: CLIP and options from settings, and one list of what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pivl_distill.config import ClipSettings, TeachConfig, load_config
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.synthetic.cache import cached_dataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.training import disk_room
from pivl_distill.training.stage2_run import Stage2Run
from teachers import inputs
from teachers.clip import CLIP_MEAN, CLIP_STD
from teachers.clip_reid_checkpoint import parse_checkpoint
from teachers.image_encoders import ViTOptions
from teachers.inputs import (
    build_clip,
    make_vit_options,
    part_vocabulary,
    prepare_inputs,
    without_download,
)
from teachers.teach import teach


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


def quick(**overrides: Any) -> TeachConfig:
    changes = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(TeachConfig, "teach", "quick", {"device": "cpu", **changes})


def prepare(config: TeachConfig) -> inputs.TeachInputs:
    return prepare_inputs(config, Stage2Run.prepare("teach", config))


def test_all_problems_are_listed_and_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "people"
    shutil.copytree(cached_dataset("tiny"), root)
    (next((root / "query").iterdir())).write_bytes(b"no image")
    (next((root / "parsing" / "bounding_box_train").iterdir())).write_bytes(b"no map")
    (tmp_path / "more").mkdir()
    monkeypatch.chdir(tmp_path)
    config = quick(
        data__spec=f"market1501:{root}",
        data__unlabeled=str(tmp_path / "more"),
        tuning__identities_per_batch=99,
        stage2__identities_per_batch=98,
        prompts__learned_tokens=80,
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PivlError) as refused:
        teach(config, tmp_path / "run")
    message = str(refused.value)
    for problem in (
        "tuning.identities_per_batch is 99, but the training split has 8 identities",
        "stage2.identities_per_batch is 98, but the training split has 8 identities",
        "images that cannot be read: 1, the first is query/",
        "maps that are not a readable single-channel 8-bit PNG: 1, the first is bounding_box_train",
        "more contains no images",
        "tokens",
    ):
        assert problem in message
    assert message.startswith("6 problems; nothing was started:\n  1. ")
    assert sorted(tmp_path.iterdir()) == before


def test_shuffled_batches_of_stage_1_take_any_number_of_identities() -> None:
    prepare(quick(tuning__batches="shuffle", tuning__identities_per_batch=99))


def test_weights_are_not_downloaded_while_there_are_problems(monkeypatch) -> None:
    built = []
    monkeypatch.setattr(inputs, "build_clip", lambda settings, *rest: built.append(settings))
    config = quick(clip__name="RN50", clip__weights="openai", tuning__identities_per_batch=99)
    with pytest.raises(PivlError, match=r"tuning\.identities_per_batch is 99"):
        prepare(config)
    assert [settings.weights for settings in built] == ["none"]
    assert without_download(ClipSettings()) == ClipSettings()


def test_disk_room_counts_all_files_of_a_run(tmp_path: Path, monkeypatch) -> None:
    estimated = []
    monkeypatch.setattr(
        Stage2Run, "check_room", lambda self, size, entries: estimated.append((size, entries))
    )
    config = quick()
    clip = prepare(config).clip
    ((size, entries),) = estimated
    assert not any(parameter.requires_grad for parameter in clip.image.parameters())
    run = teach(config, tmp_path / "run").run
    files = sum(path.stat().st_size for path in run.iterdir())
    assert files < size + disk_room.LOGS_BYTES < 20 * files + disk_room.LOGS_BYTES
    dim, cells = clip.image.dim, clip.image.grid_hw[0] * clip.image.grid_hw[1]
    assert [entry.size for entry in entries] == [48 * dim * 2, 48 * dim * cells * 2]
