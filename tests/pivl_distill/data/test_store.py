"""The crop store: pixels, maps and labels in the order of the records."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.config import DataSettings
from pivl_distill.data import store as module
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore, load_training_crops
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import PivlError


def make_records(folder: Path, count: int = 12) -> list[Record]:
    """Plain crops of colour (10·n, 0, 255 − 10·n); even ones have a map of class n."""
    records = []
    for number in range(count):
        image, parsing = folder / f"{number}.png", folder / f"{number}_map.png"
        Image.new("RGB", (8, 16), (10 * number, 0, 255 - 10 * number)).save(image)
        if number % 2 == 0:
            Image.new("L", (8, 16), number).save(parsing)
        has_map = parsing if number % 2 == 0 else None
        records.append(Record(image, 100 + number, number % 3, has_map))
    return records


def test_arrays_keep_the_order_of_the_records(tmp_path: Path) -> None:
    store = CropStore.load(make_records(tmp_path), (6, 4), LIP20)
    numbers = np.arange(12)
    assert len(store) == 12
    assert store.crops.shape == (12, 6, 4, 3)
    assert store.maps is not None
    colours = np.stack([10 * numbers, 0 * numbers, 255 - 10 * numbers], axis=1)
    np.testing.assert_array_equal(store.crops[:, 5, 3], colours)
    np.testing.assert_array_equal(store.maps[:, 0, 0], np.where(numbers % 2, IGNORE, numbers))
    np.testing.assert_array_equal(store.pids, 100 + numbers)
    np.testing.assert_array_equal(store.camids, numbers % 3)
    assert store.pids.dtype == store.camids.dtype == np.int64
    assert store.missing_maps == 6


def test_confidence_is_read_on_request(tmp_path: Path) -> None:
    confidence = np.array([[255, 30], [0, 128]], np.uint8)
    part_map = Image.fromarray(np.full((2, 2), 5, np.uint8))
    part_map.putalpha(Image.fromarray(confidence))
    part_map.save(tmp_path / "certain.png")
    Image.fromarray(np.full((2, 2), 5, np.uint8)).save(tmp_path / "plain.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "crop.png")
    records = [
        Record(tmp_path / "crop.png", number, 0, tmp_path / name)
        for number, name in enumerate(("certain.png", "plain.png"))
    ]
    settings = DataSettings(size_hw=(2, 2))
    store = load_training_crops(records, settings, LIP20, confidence=True)
    np.testing.assert_array_equal(store.confidence, [confidence, np.full((2, 2), 255)])
    assert (store.maps == 5).all()
    assert load_training_crops(records, settings, LIP20).confidence is None
    assert load_training_crops(records, settings, confidence=True).confidence is None


def test_without_a_vocabulary_there_are_no_maps(tmp_path: Path) -> None:
    store = CropStore.load(make_records(tmp_path), (6, 4))
    assert store.maps is None
    assert store.missing_maps == 0


def test_one_unknown_camera_means_no_camera_ids(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    records[3] = replace(records[3], camid=None)
    assert CropStore.load(records, (6, 4)).camids is None


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_error_names_an_unreadable_image(tmp_path: Path, content: bytes | None) -> None:
    records = make_records(tmp_path)
    records[7].path.unlink()
    if content is not None:
        records[7].path.write_bytes(content)
    with pytest.raises(PivlError, match=r"7\.png"):
        CropStore.load(records, (6, 4))


def test_error_names_a_truncated_image(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(records[0].path)
    records[0].path.write_bytes(records[0].path.read_bytes()[:5000])
    with pytest.raises(PivlError, match=r"0\.png"):
        CropStore.load(records, (6, 4))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder of decoded crops of this test."""
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crops"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of all images and maps decoded so far."""
    names: list[str] = []

    def counted(read):
        def wrapped(path: Path, *args: object, **kwargs: object) -> object:
            names.append(path.name)
            return read(path, *args, **kwargs)

        return wrapped

    for name in ("read_crop", "read_map"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    yield names
    names.clear()


def load(records: list[Record], **settings: object) -> CropStore:
    """Load training crops; cached by default."""
    data_settings = DataSettings(**{"size_hw": (6, 4), **settings})
    return load_training_crops(records, data_settings, LIP20)


def assert_same(one: CropStore, other: CropStore) -> None:
    np.testing.assert_array_equal(one.crops, other.crops)
    np.testing.assert_array_equal(one.maps, other.maps)
    np.testing.assert_array_equal(one.pids, other.pids)
    assert one.missing_maps == other.missing_maps


def test_second_run_hits_the_cache(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    records = make_records(tmp_path)
    plain = load(records, crop_cache_gib=0)
    assert not folder.exists()
    decoded.clear()
    first = load(records)
    assert len(decoded) == 12 + 6
    again = load(records)
    assert len(decoded) == 12 + 6
    for store in (first, again):
        assert_same(store, plain)
        assert isinstance(store.crops, np.memmap)
        assert isinstance(store.maps, np.memmap)


def test_more_files_than_one_chunk(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(tmp_path)
    plain = load(records, crop_cache_gib=0)
    monkeypatch.setattr(module, "CHUNK_FILES", 5)
    assert_same(load(records), plain)
    assert_same(load(records, crop_cache_gib=0), plain)


def test_moved_dataset_hits_the_cache(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    (tmp_path / "here").mkdir()
    load(make_records(tmp_path / "here"))
    decoded.clear()
    (tmp_path / "here").rename(tmp_path / "there")
    elsewhere = [
        replace(
            record,
            path=tmp_path / "there" / f"{number}.png",
            parsing=None if number % 2 else tmp_path / "there" / f"{number}_map.png",
            pid=record.pid + 1,
        )
        for number, record in enumerate(make_records(tmp_path))
    ]
    assert load(elsewhere).pids[0] == 101
    assert decoded == []


@pytest.mark.parametrize("which", ["3.png", "4_map.png"])
def test_changed_bytes_invalidate_the_entry_even_with_equal_name_size_and_time(
    tmp_path: Path, folder: Path, decoded: list[str], which: str
) -> None:
    records = make_records(tmp_path)
    load(records)
    decoded.clear()
    changed = tmp_path / which
    before = changed.stat()
    # The last byte changes; size and modification time do not.
    data = changed.read_bytes()
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed.stat().st_size == before.st_size
    load(records)
    kind = {"3.png": 12, "4_map.png": 6}
    assert len(decoded) == kind[which]  # images and maps have separate entries


@pytest.mark.parametrize("cache_gib", [0, 1])
def test_contents_hash_only_the_files(tmp_path: Path, folder: Path, cache_gib: int) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    contents = load(make_records(here), crop_cache_gib=cache_gib).contents
    records = make_records(there)
    assert load(records, crop_cache_gib=cache_gib, size_hw=(4, 6)).contents == contents
    data = (there / "4_map.png").read_bytes()
    (there / "4_map.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed = load(records, crop_cache_gib=cache_gib).contents
    assert changed["images"] == contents["images"]
    assert changed["maps"] != contents["maps"]
    exchanged = load([records[1], records[0], *records[2:]], crop_cache_gib=cache_gib).contents
    assert exchanged["images"] != contents["images"]
    assert load_training_crops(records, DataSettings(size_hw=(6, 4))).contents["maps"] is None


def test_files_are_hashed_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[object] = []
    plain = module._file_digest
    monkeypatch.setattr(module, "_file_digest", lambda path: (hashed.append(path), plain(path))[1])
    load(make_records(tmp_path))
    assert len(hashed) == 12 + 12


def test_order_size_and_vocabulary_are_part_of_the_key(tmp_path: Path, folder: Path) -> None:
    records = make_records(tmp_path)
    entries = []
    for changed, settings, vocabulary in (
        (records, {}, LIP20),
        (records[::-1], {}, LIP20),
        (records, {"size_hw": (4, 6)}, LIP20),
        (records, {}, replace(LIP20, background=1)),
    ):
        load_training_crops(changed, DataSettings(**{"size_hw": (6, 4), **settings}), vocabulary)
        entries.append(len(list(folder.iterdir())))
    # Crops and maps; again both; again both; then only maps.
    assert entries == [2, 4, 6, 7]


def test_decoder_version_is_part_of_the_key(
    tmp_path: Path, folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(tmp_path)
    load(records)
    monkeypatch.setattr(module.PIL, "__version__", "0.0")
    decoded.clear()
    load(records)
    assert len(decoded) == 12 + 6


def test_damaged_cache_entry_is_decoded_again(
    tmp_path: Path, folder: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    records = make_records(tmp_path)
    plain = load(records)
    crops, maps = plain.crops.copy(), plain.maps.copy()
    for file in folder.glob("*/pixels.npy"):
        os.truncate(file, file.stat().st_size - 3)
    decoded.clear()
    again = load(records)
    assert len(decoded) == 12 + 6
    assert_same(again, replace(plain, crops=crops, maps=maps))
    assert "The decoded crops in" in caplog.text
    assert "The decoded part maps in" in caplog.text


def test_error_names_a_missing_image_despite_the_cache(tmp_path: Path, folder: Path) -> None:
    records = make_records(tmp_path)
    load(records)
    records[7].path.unlink()
    with pytest.raises(PivlError, match=r"7\.png"):
        load(records)


def test_unreadable_image_leaves_no_cache_entry(tmp_path: Path, folder: Path) -> None:
    records = make_records(tmp_path)
    records[7].path.write_bytes(b"no image")
    with pytest.raises(PivlError, match=r"7\.png"):
        load(records)
    assert not list(folder.iterdir())


def _load_and_compare(records: list[Record], expected: CropStore, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    assert_same(load(records), expected)


def test_processes_may_load_concurrently(tmp_path: Path, folder: Path) -> None:
    records = make_records(tmp_path)
    expected = load(records, crop_cache_gib=0)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [
        context.Process(target=_load_and_compare, args=(records, expected, start)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("known", [True, False])
def test_stores_are_concatenated_without_maps(tmp_path: Path, known: bool) -> None:
    (tmp_path / "more").mkdir()
    first = CropStore.load(make_records(tmp_path, 3), (16, 8), LIP20)
    more = [
        replace(r, camid=r.camid if known else None) for r in make_records(tmp_path / "more", 2)
    ]
    second = CropStore.load(more, (16, 8))
    both = first.concatenated(second)
    assert len(both) == 5
    assert both.maps is None
    assert np.array_equal(both.crops, np.concatenate([first.crops, second.crops]))
    assert both.pids.tolist() == [*first.pids, *second.pids]
    assert (both.camids is not None) == known
    if both.camids is not None:
        assert both.camids.tolist() == [*first.camids, *second.camids]
