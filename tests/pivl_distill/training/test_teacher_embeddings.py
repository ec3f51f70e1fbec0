"""Teacher embeddings on disk: rows are looked up by crop name, in any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, embed
from pivl_distill.training.teacher_embeddings import load_embeddings, save_embeddings


@pytest.fixture
def dataset(band_store: CropStore) -> ReIDDataset:
    root = Path("/somewhere")
    records = tuple(
        Record(root / "train" / f"{number}.png", int(pid), 0)
        for number, pid in enumerate(band_store.pids)
    )
    return ReIDDataset("bands", root, records, records, records)


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5))
    return EmbeddingModel("linear", network, (128, 64), (0.5,) * 3, (0.5,) * 3)


def test_embeddings_follow_the_order_of_the_dataset(dataset, model, band_store, tmp_path):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, model, band_store, dataset)
    expected = embed(model, band_store.crops).astype(np.float16)
    np.testing.assert_array_equal(load_embeddings(path, dataset), expected)
    elsewhere = replace(
        dataset,
        root=Path("/moved"),
        train=tuple(
            replace(record, path=Path("/moved/train") / record.path.name)
            for record in reversed(dataset.train[:7])
        ),
    )
    np.testing.assert_array_equal(load_embeddings(path, elsewhere), expected[:7][::-1])


def test_missing_crops_are_named(dataset, model, band_store, tmp_path):
    path = tmp_path / "teacher_embeddings.safetensors"
    save_embeddings(path, model, band_store, dataset)
    more = replace(dataset, train=(*dataset.train, Record(Path("/somewhere/new.png"), 1, 0)))
    with pytest.raises(PivlError, match=r"no embedding of 1 of 25 crops \(first new\.png\).*bands"):
        load_embeddings(path, more)


def test_a_file_of_another_kind_is_refused(dataset, prompt_bank, tmp_path):
    prompt_bank.save(tmp_path / "bank.safetensors")
    with pytest.raises(PivlError, match="is not a teacher embeddings"):
        load_embeddings(tmp_path / "bank.safetensors", dataset)
