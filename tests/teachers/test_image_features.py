"""Features of crops, and their cache: hits, keys, size limit, damaged and partial entries."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.config import TuningSettings
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.storage import array_cache
from pivl_distill.storage.array_cache import evict_least_recently_used
from pivl_distill.storage.cache_dir import CacheError
from teachers import image_features as module
from teachers.clip import with_weights_hash
from teachers.image_features import ImageFeatures, encode_crops, encoding_dtype, feature_key


def with_cache(gib: float) -> TuningSettings:
    return TuningSettings(feature_cache_gib=gib)


CACHED, UNCACHED = with_cache(1), with_cache(0)


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """An empty feature cache for one test."""
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path))
    return tmp_path / "features"


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The sizes of the batches that the image encoder has encoded."""
    batches: list[int] = []
    normalize = module.normalize_crops

    def count(crops: torch.Tensor, *rest: object) -> torch.Tensor:
        batches.append(len(crops))
        return normalize(crops, *rest)

    monkeypatch.setattr(module, "normalize_crops", count)
    return batches


def assert_equal(one: ImageFeatures, other: ImageFeatures) -> None:
    assert torch.equal(one.projected, other.projected)
    assert torch.equal(one.cells.values, other.cells.values)
    assert torch.equal(one.parts, other.parts)


def test_features_keep_the_order_of_the_crops(features, frozen_clip, band_store):
    assert features.projected.shape == (24, frozen_clip.image.dim)
    assert features.cells.values.shape == (24, 16 * 8, frozen_clip.image.dim)
    crop = (torch.from_numpy(band_store.crops[17]).permute(2, 0, 1) / 255)[None]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (frozen_clip.mean, frozen_clip.std))
    tokens = frozen_clip.image.joint_tokens((crop - mean) / std)[0]
    tolerance = {"rtol": 2**-10, "atol": 1e-4 * tokens.abs().max().item()}
    torch.testing.assert_close(features.projected[17], tokens[0], **tolerance)
    torch.testing.assert_close(features.cells.values[17].float(), tokens[1:], **tolerance)


def test_unwritable_cache_keeps_features_in_memory(
    features, frozen_clip, band_store, folder, caplog
):
    folder.write_text("a file in the way")
    assert_equal(encode_crops(frozen_clip, band_store, LIP20, CACHED), features)
    assert "The features of crops stay in memory: Cannot write" in caplog.text


def test_disk_full_while_writing_loses_only_the_cache_entry(
    features, frozen_clip, band_store, folder, encoded, caplog, monkeypatch
):
    def full(entry, shapes, dtype, batches):
        next(iter(batches))
        raise CacheError("No space left on device.")

    monkeypatch.setattr(array_cache, "write", full)
    assert_equal(encode_crops(frozen_clip, band_store, LIP20, CACHED), features)
    assert sum(encoded) == 2 * len(band_store)  # once for the cache entry, and once more in memory
    assert "stay in memory: No space left" in caplog.text


def test_cell_features_value_uses_the_value_path(features, frozen_clip, band_store):
    settings = UNCACHED.model_copy(update={"cell_features": "value"})
    values = encode_crops(frozen_clip, band_store, LIP20, settings)
    crop = torch.from_numpy(band_store.crops[3:4])
    pixels = normalize_crops(crop, frozen_clip.mean, frozen_clip.std)
    tokens = frozen_clip.image.value_tokens(pixels)[0]
    tolerance = {"rtol": 2**-10, "atol": 1e-4 * tokens.abs().max().item()}
    torch.testing.assert_close(values.cells.values[3].float(), tokens[1:], **tolerance)
    torch.testing.assert_close(values.projected, features.projected, **tolerance)
    assert not torch.equal(values.cells.values, features.cells.values)


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", 0.999), ("float16", 0.99999)])
def test_half_precision_features_are_close_and_cached_separately(
    folder, frozen_clip, features, band_store, precision, cosine
):
    settings = CACHED.model_copy(update={"precision": precision})
    half_precision = encode_crops(frozen_clip, band_store, LIP20, settings)
    for ours, full in (
        (half_precision.projected, features.projected),
        (half_precision.cells.values.float(), features.cells.values.float()),
    ):
        assert not torch.equal(ours, full)
        assert torch.cosine_similarity(ours, full, dim=-1).min() > cosine
    encode_crops(frozen_clip, band_store, LIP20, CACHED)
    assert len(list(folder.iterdir())) == 2  # one entry per precision


def test_auto_precision_is_float16_only_on_a_gpu():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert encoding_dtype("auto", cuda) is torch.float16
    assert encoding_dtype("auto", cpu) is encoding_dtype("float32", cuda) is None
    assert encoding_dtype("bfloat16", cpu) is torch.bfloat16


def test_overflowing_features_raise(make_clip, band_store):
    clip = make_clip()
    clip.image.visual.attnpool.c_proj.weight.data *= 1e6
    with pytest.raises(PivlError, match=r"overflow half precision.* tuning\.precision to float32"):
        encode_crops(clip, band_store, LIP20, UNCACHED)


@pytest.mark.parametrize("gib", [0, 1])
def test_cells_are_omitted_without_part_epochs(features, frozen_clip, band_store, folder, gib):
    settings = with_cache(gib).model_copy(update={"part_epochs": 0})
    without_cells = encode_crops(frozen_clip, band_store, LIP20, settings)
    assert without_cells.cells.values.shape == (24, 0, frozen_clip.image.dim)
    assert torch.equal(without_cells.projected, features.projected)
    assert torch.equal(without_cells.parts, features.parts)


def test_cell_labels_nearest_uses_the_central_pixel(features, frozen_clip, band_store):
    noise = np.random.default_rng(0).integers(0, 20, band_store.maps.shape, dtype=np.uint8)
    store = dataclasses.replace(band_store, maps=noise)
    settings = UNCACHED.model_copy(update={"cell_labels": "nearest"})
    parts = encode_crops(frozen_clip, store, LIP20, settings).parts
    assert torch.equal(parts, torch.from_numpy(noise[:, 4::8, 4::8]).long().flatten(1))
    assert not torch.equal(parts, encode_crops(frozen_clip, store, LIP20, UNCACHED).parts)


def test_batch_cells_are_converted_to_float32(features):
    cells = features.batch_cells(np.array([5, 3]))
    assert features.cells.values.dtype == torch.float16
    assert cells.dtype == torch.float32
    assert torch.equal(cells, features.cells.values[[5, 3]].float())


def test_cell_labels_follow_the_part_map(features, band_store):
    centres = torch.from_numpy(band_store.maps[:, 4::8, 4::8]).flatten(1)
    assert torch.equal(features.parts, centres.long())


def test_several_batches_without_maps(frozen_clip, band_store):
    twice = np.concatenate([band_store.crops] * 3)
    store = CropStore(twice, None, np.arange(72), np.zeros(72, int))
    features = encode_crops(frozen_clip, store, LIP20, UNCACHED)
    assert len(features.projected) == 72 > 64
    torch.testing.assert_close(features.projected[48:], features.projected[:24])
    assert (features.parts == IGNORE).all()


def test_second_call_is_a_cache_hit(features, frozen_clip, band_store, folder, encoded):
    first = encode_crops(frozen_clip, band_store, LIP20, CACHED)
    assert encoded == [24]
    again = encode_crops(frozen_clip, band_store, LIP20, CACHED)
    assert encoded == [24]
    assert_equal(again, first)
    assert_equal(again, features)
    assert [entry.name for entry in folder.iterdir()] == [
        feature_key(frozen_clip, band_store, "attended")
    ]


def test_writing_to_cells_does_not_change_the_cache(frozen_clip, band_store, folder):
    first = encode_crops(frozen_clip, band_store, LIP20, CACHED)
    first.cells.values.zero_()
    assert encode_crops(frozen_clip, band_store, LIP20, CACHED).cells.values.any()


def test_nothing_is_written_without_a_cache(frozen_clip, band_store, folder, encoded):
    for _ in range(2):
        encode_crops(frozen_clip, band_store, LIP20, UNCACHED)
    assert encoded == [24, 24]
    assert not folder.exists()


def test_features_larger_than_the_cache_stay_in_memory(frozen_clip, band_store, folder):
    encode_crops(frozen_clip, band_store, LIP20, with_cache(2**-20))
    assert not folder.exists()


def test_full_disk_logs_a_warning_and_writes_nothing(
    features, frozen_clip, band_store, folder, monkeypatch, caplog
):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    assert_equal(encode_crops(frozen_clip, band_store, LIP20, CACHED), features)
    assert not list(folder.iterdir())
    assert "Set PIVL_DISTILL_CACHE to another folder" in caplog.text


def test_cache_key_depends_on_weights_crops_and_size(frozen_clip, make_clip, band_store):
    key = feature_key(frozen_clip, band_store, "attended")
    assert key == feature_key(frozen_clip, dataclasses.replace(band_store), "attended")
    changed = band_store.crops.copy()
    changed[5, 3, 2, 1] ^= 1
    flat = band_store.crops.reshape(24, 64, 128, 3)
    keys = {
        key,
        feature_key(with_weights_hash(make_clip(seed=1)), band_store, "attended"),
        feature_key(dataclasses.replace(frozen_clip, mean=(0.0, 0.0, 0.0)), band_store, "attended"),
        feature_key(frozen_clip, dataclasses.replace(band_store, crops=changed), "attended"),
        feature_key(frozen_clip, dataclasses.replace(band_store, crops=flat), "attended"),
        feature_key(frozen_clip, band_store, "value"),
        feature_key(frozen_clip, band_store, None),
    }
    assert len(keys) == 7


@pytest.mark.parametrize("damage", ["cut", "gone", "no array", "another shape"])
def test_damaged_cache_entry_is_logged_and_recomputed(
    features, frozen_clip, band_store, folder, encoded, caplog, damage
):
    encode_crops(frozen_clip, band_store, LIP20, CACHED)
    file = folder / feature_key(frozen_clip, band_store, "attended") / "cells.npy"
    if damage == "cut":
        os.truncate(file, 5000)
    elif damage == "gone":
        file.unlink()
    elif damage == "no array":
        file.write_text("no array")
    else:
        np.save(file, np.zeros((2, 3), np.float16))
    assert_equal(encode_crops(frozen_clip, band_store, LIP20, CACHED), features)
    assert encoded == [24, 24]
    assert "are damaged and will be computed again" in caplog.text


def test_crash_while_encoding_leaves_no_cache_entry(frozen_clip, band_store, folder, monkeypatch):
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "normalize_crops", crash)
    with pytest.raises(KeyboardInterrupt):
        encode_crops(frozen_clip, band_store, LIP20, CACHED)
    assert not list(folder.iterdir())


def test_entry_of_a_faster_process_is_kept(features, frozen_clip, band_store, folder, monkeypatch):
    other = shutil.copytree(
        _entry_of(frozen_clip, band_store, folder), folder.parent / "finished elsewhere"
    )
    shutil.rmtree(folder)
    normalize = module.normalize_crops

    def race(*args: object) -> object:
        shutil.copytree(other, folder / feature_key(frozen_clip, band_store, "attended"))
        return normalize(*args)

    monkeypatch.setattr(module, "normalize_crops", race)
    assert_equal(encode_crops(frozen_clip, band_store, LIP20, CACHED), features)
    assert len(list(folder.iterdir())) == 1


def _entry_of(clip, store, folder: Path) -> Path:
    encode_crops(clip, store, LIP20, CACHED)
    return folder / feature_key(clip, store, "attended")


def test_cache_hit_updates_last_use(frozen_clip, band_store, folder):
    entry = _entry_of(frozen_clip, band_store, folder)
    os.utime(entry, (1.0, 1.0))
    (folder / "another").mkdir()
    os.utime(folder / "another", (2.0, 2.0))
    encode_crops(frozen_clip, band_store, LIP20, CACHED)
    evict_least_recently_used(folder, 1)
    assert list(folder.iterdir()) == [entry]
