"""A teacher's embeddings of stored views: made, written, and looked up by image in any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, embed
from pivl_distill.storage.tensors import load_tensors, save_tensors
from pivl_distill.training import teacher_embeddings
from pivl_distill.training.teacher_embeddings import (
    Classifier,
    TeacherEmbeddings,
    embed_views,
    load_embeddings,
    save_embeddings,
)

PAD_PX, SIZE_HW = 5, (128, 64)


@pytest.fixture
def records(band_store: CropStore, tmp_path: Path) -> tuple[Record, ...]:
    (tmp_path / "train").mkdir()
    paths = [tmp_path / "train" / f"{number}.png" for number in range(len(band_store))]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number))
    pairs = zip(paths, band_store.pids.tolist(), strict=True)
    return tuple(Record(path, pid, 0) for path, pid in pairs)


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5))
    return EmbeddingModel("linear", network, SIZE_HW, (0.5, 0.4, 0.3), (0.5,) * 3)


@pytest.fixture
def three_views(band_store: CropStore, model: EmbeddingModel) -> TeacherEmbeddings:
    return embed_views(model, band_store, 3, PAD_PX)


def moved(crop: np.ndarray, flip: bool, shift: np.ndarray, fill: tuple[int, ...]) -> np.ndarray:
    """Mirror a crop [H, W, 3], then move it down and right by shares of its size."""
    (height, width), out = SIZE_HW, np.empty_like(crop)
    down, right = round(shift[0] * height), round(shift[1] * width)
    for y in range(height):
        for x in range(width):
            row, column = y - down, x - right
            inside = 0 <= row < height and 0 <= column < width
            source = width - 1 - column if flip else column
            out[y, x] = crop[row, source] if inside else fill
    return out


def test_each_view_is_flipped_and_moved_before_it_is_embedded(three_views, band_store, model):
    assert three_views.embeddings.shape == (24, 3, 5)
    assert (three_views.dim, three_views.views) == (5, 3)
    assert not three_views.flips[:, 0].any()
    assert not three_views.shifts[:, 0].any()
    assert 0 < three_views.flips[:, 1:].mean() < 1
    pixels = three_views.shifts * SIZE_HW
    assert set(pixels[:, 1:].round().ravel()) == set(range(-PAD_PX, PAD_PX + 1))
    for view in range(3):
        crops = np.stack([
            moved(crop, three_views.flips[n, view], three_views.shifts[n, view], (128, 102, 76))
            for n, crop in enumerate(band_store.crops)
        ])  # fmt: skip
        expected = torch.from_numpy(embed(model, crops)).half()
        assert torch.equal(three_views.embeddings[:, view], expected)


def test_views_do_not_depend_on_the_chunks_or_on_later_views(
    three_views, band_store, model, monkeypatch
):
    monkeypatch.setattr(teacher_embeddings, "MOVED_CROPS", 7)
    again = embed_views(model, band_store, 3, PAD_PX)
    assert torch.equal(again.embeddings, three_views.embeddings)


def test_an_exported_file_may_replace_the_network(band_store, model):
    embeddings = embed_views(
        model, band_store, 1, PAD_PX, forward=lambda images: images.mean((2, 3))
    )
    assert embeddings.embeddings.shape == (24, 1, 3)


def test_geometry_is_in_pixels_of_the_students_crops(three_views):
    batch, view = np.array([3, 3, 8]), np.array([0, 2, 1])
    geometry = three_views.geometry(batch, view, (256, 128))
    assert geometry.flip.tolist() == [three_views.flips[n, v] for n, v in ((3, 0), (3, 2), (8, 1))]
    assert geometry.offset[0].tolist() == [0, 0]
    doubled = 2 * np.round(three_views.shifts[[3, 8], [2, 1]] * SIZE_HW)
    assert geometry.offset[1:].tolist() == doubled.tolist()


def with_classifier(embeddings: TeacherEmbeddings) -> TeacherEmbeddings:
    classifier = Classifier(torch.randn(3, 5), torch.randn(3), (3, 7, 12))
    return replace(embeddings, projected_dim=2, classifier=classifier)


def assert_equal(one: TeacherEmbeddings, other: TeacherEmbeddings) -> None:
    assert torch.equal(one.embeddings, other.embeddings)
    assert np.array_equal(one.flips, other.flips)
    assert np.array_equal(one.shifts, other.shifts)
    assert one.projected_dim == other.projected_dim
    assert (one.classifier is None) == (other.classifier is None)
    if one.classifier is not None and other.classifier is not None:
        assert torch.equal(one.classifier.weight, other.classifier.weight)
        assert torch.equal(one.classifier.bias, other.classifier.bias)
        assert one.classifier.pids == other.classifier.pids


@pytest.mark.parametrize("classified", [True, False])
def test_file_gives_back_what_was_written(three_views, records, tmp_path, classified):
    path = tmp_path / "teacher_embeddings.safetensors"
    written = with_classifier(three_views) if classified else three_views
    save_embeddings(path, written, records, "linear")
    assert_equal(load_embeddings(path, records), written)


def test_some_images_may_be_read_in_another_order_and_place(three_views, records, tmp_path):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, three_views, records, "linear")
    (tmp_path / "train").rename(tmp_path / "moved")
    order = [9, 0, 23, 4]
    elsewhere = [replace(records[n], path=tmp_path / "moved" / records[n].path.name) for n in order]
    assert_equal(load_embeddings(path, elsewhere), three_views.rows(order))


def test_missing_images_are_named(three_views, records, tmp_path):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, three_views.rows(range(22)), records[:22], "linear")
    with pytest.raises(PivlError, match=r"no embedding of 2 of 24 crops \(first 22\.png\)"):
        load_embeddings(path, records)
    other_person = replace(records[0], pid=99)
    with pytest.raises(PivlError, match=r"no embedding of 1 of 1 crops \(first 0\.png\)"):
        load_embeddings(path, [other_person])


def test_size_is_bounded_by_crops_views_and_dimensions(three_views, records, tmp_path):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, three_views, records, "linear")
    per_view = 2 * 5 + 1 + 2 * 4  # float16 values, a flip and two float32 shifts
    assert path.stat().st_size <= 24 * (3 * per_view + 8) + 1000


def test_files_of_other_kinds_and_older_versions_are_refused(prompt_bank, records, tmp_path):
    prompt_bank.save(tmp_path / "bank.safetensors")
    with pytest.raises(PivlError, match="is not a teacher embeddings"):
        load_embeddings(tmp_path / "bank.safetensors", records)
    path = tmp_path / "old.safetensors"
    metadata = {"model": "m", "dataset": "d", "crops": ["0.png"]}
    save_tensors(path, "teacher embeddings", {"embeddings": torch.eye(2)}, metadata)
    with pytest.raises(PivlError, match="lacks 'projected_dim': another version"):
        load_embeddings(path, records)


def test_first_views_and_too_many(three_views):
    assert torch.equal(three_views.first_views(2).embeddings, three_views.embeddings[:, :2])
    assert three_views.first_views(2).flips.shape == (24, 2)
    with pytest.raises(PivlError, match=r"distill\.views is 4, .* have 3 views; teach with"):
        three_views.first_views(4)


def test_classes_are_selected_by_pid(three_views):
    full = with_classifier(three_views)
    selected = full.select_classes((12, 3))
    assert selected.classifier.pids == (12, 3)
    assert torch.equal(selected.classifier.weight, full.classifier.weight[[2, 0]])
    embeddings = torch.randn(4, 5)
    torch.testing.assert_close(selected.logits(embeddings), full.logits(embeddings)[:, [2, 0]])
    assert full.select_classes((3, 4)).classifier is None
    assert three_views.select_classes((3,)).classifier is None


def test_projected_embeddings_are_the_last_values(three_views):
    assert three_views.projected is None
    assert torch.equal(with_classifier(three_views).projected, three_views.embeddings[..., -2:])


@pytest.mark.parametrize(
    ("change", "metadata_change"),
    [
        ({"embeddings": torch.zeros(4, 3)}, {}),
        ({"flips": None}, {}),
        ({"shifts": torch.zeros(1, 3, 2)}, {}),
        ({"images": torch.zeros(24)}, {}),
        ({}, {"projected_dim": 10**9}),
        ({}, {"projected_dim": "x"}),
        ({}, {"pids": [3, 7]}),
        ({}, {"pids": "ab"}),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    three_views, records, tmp_path, change, metadata_change
):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, three_views, records, "linear")
    _, tensors, metadata = load_tensors(path, teacher_embeddings.KIND)
    tensors = {name: t for name, t in (tensors | change).items() if t is not None}
    save_tensors(path, teacher_embeddings.KIND, tensors, metadata | metadata_change)
    with pytest.raises(PivlError, match=r"is damaged: .*pivl-distill teach"):
        load_embeddings(path, records)
