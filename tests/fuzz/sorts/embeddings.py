"""Embeddings: .npz and Parquet files of vectors, a teacher's embeddings, arrays of the cache."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import damaged, edited_json, edited_safetensors
from fuzz.uses import use_each
from pivl_distill.data.records import Record
from pivl_distill.retrieval.faiss_index import FeatureShards, build_index
from pivl_distill.storage import array_cache
from pivl_distill.training.teacher_embeddings import (
    Classifier,
    TeacherEmbeddings,
    load_embeddings,
    save_embeddings,
)
from pivl_distill.vectors.files import VectorFile

ROWS, DIM, PIDS = 30, 4, (3, 7)
SHAPE, DTYPE = (5, 4), np.dtype(np.uint8)
TEACHER, ENTRY, VECTORS = "teacher.safetensors", "entry", "vectors.npz"
_CROPS = {f"{pid}_{number}.jpg": bytes(pid + number) for pid in PIDS for number in range(2)}


@cache
def _parquet_seeds() -> list[bytes]:
    features = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(ROWS)]
    types = (pyarrow.float32(), pyarrow.float16(), pyarrow.float64())
    columns = [
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.ravel()).cast(kind), DIM)
        for kind in types
    ]
    columns += [pyarrow.array(features.tolist()), pyarrow.array([None, *features[1:].tolist()])]
    columns.append(pyarrow.array([None, *features[1:].tolist()], pyarrow.list_(types[0], DIM)))
    tables = [pyarrow.table({"name": names, "feature": column}) for column in columns]
    tables += [tables[0].drop_columns("name"), tables[0].slice(0, 0)]
    seeds = []
    for table in tables:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, row_group_size=10)
        seeds.append(buffer.getvalue())
    return seeds


@cache
def _npz_seeds() -> list[bytes]:
    features = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    names = np.array([f"{number}.jpg" for number in range(ROWS)])
    metadata = json.dumps({"network": "small", "unreadable": []})
    arrays = [
        {"names": names, "features": features, "metadata": metadata},
        {"names": names, "features": features.astype(np.float16)},
        {"names": names[1:], "features": np.asfortranarray(features)},
        {"names": names.astype(object), "features": features},
        {"names": names, "features": np.full_like(features, np.inf), "metadata": "[" * 99},
    ]
    seeds = []
    for entries in arrays:
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **entries)
            seeds.append(buffer.getvalue())
    return seeds


def _records(folder: Path) -> list[Record]:
    return [Record(folder / name, int(name.partition("_")[0]), 0) for name in _CROPS]


@cache
def _teacher_seed() -> bytes:
    count, views = len(_CROPS), 2
    embeddings = TeacherEmbeddings(
        torch.ones(count, views, DIM, dtype=torch.float16),
        np.zeros((count, views), bool),
        np.zeros((count, views, 2), np.float32),
        projected_dim=2,
        classifier=Classifier(torch.ones(len(PIDS), DIM), torch.zeros(len(PIDS)), PIDS),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for crop, content in _CROPS.items():
            (folder / crop).write_bytes(content)
        save_embeddings(folder / TEACHER, embeddings, _records(folder), "teacher")
        return (folder / TEACHER).read_bytes()


def _array() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=DTYPE).reshape(SHAPE)


def _cache_entries() -> st.SearchStrategy[Case]:
    buffer = io.BytesIO()
    np.save(buffer, _array())
    data = buffer.getvalue()
    tokens = [b"\x93NUMPY", b"'descr': '|O'", b"(" * 300, b"{", b"'fortran_order': True"]
    arrays = st.just(data) | damaged(data, tokens)

    def make(array: bytes, hashes: Any, rehashed: bool) -> Case:
        known = json.dumps({"crops": sha256(array).hexdigest()}).encode()
        files = {"crops.npy": array, "sha256.json": known if rehashed else hashes}
        return Case({f"{ENTRY}/{name}": content for name, content in files.items()})

    hashes = edited_json(json.dumps({"crops": sha256(data).hexdigest()}).encode())
    return st.builds(make, arrays, hashes, st.booleans())


def cases() -> st.SearchStrategy[Case]:
    """A gallery, a file of vectors, that of a teacher with its crops, or an entry of the cache."""
    seeds = st.sampled_from(_parquet_seeds())
    shards = seeds | seeds.flatmap(lambda data: damaged(data, [b"PAR1", *_parquet_seeds()]))
    vectors = st.sampled_from(_npz_seeds())
    vectors = vectors | vectors.flatmap(lambda data: damaged(data, [b"PK", *_npz_seeds()]))
    archives = vectors.map(lambda data: Case({VECTORS: data}))
    galleries = st.lists(shards, min_size=1, max_size=2).map(
        lambda files: Case({f"{number}.parquet": data for number, data in enumerate(files)})
    )
    teachers = edited_safetensors(_teacher_seed()).map(lambda data: Case({TEACHER: data, **_CROPS}))
    return galleries | archives | teachers | _cache_entries()


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Read the files as `search`, `student` and every training run do."""
    if (given / ENTRY).is_dir():
        _use_cache(given / ENTRY, out / ENTRY)
    elif (given / TEACHER).is_file():
        _use_teacher(given)
    elif (given / VECTORS).is_file():
        _use_vectors(given / VECTORS)
    else:
        _use_gallery(given)


def _use_gallery(folder: Path) -> None:
    shards = FeatureShards.open(folder)
    count = len(shards)

    def read_all() -> None:
        batches = list(shards.batches(rows=7))
        assert sum(map(len, batches)) == count
        assert all(np.isfinite(batch).all() for batch in batches)

    use_each(
        read_all,
        lambda: [_use_vectors(file) for file in shards.files],
        lambda: shards.sample(10),
        lambda: shards.names(range(min(count, 40))),
        lambda: build_index(shards),
    )


def _use_vectors(path: Path) -> None:
    opened = VectorFile.open(path)
    names, features = opened.read()
    assert features.shape == (opened.count, opened.dim)
    assert len(names) == opened.count
    assert np.isfinite(features).all()


def _use_teacher(folder: Path) -> None:
    embeddings = load_embeddings(folder / TEACHER, _records(folder)).select_classes(PIDS)
    assert embeddings.embeddings.shape[0] == len(_CROPS)
    assert embeddings.embeddings.isfinite().all()
    embeddings.first_views(1).geometry(np.arange(2), np.zeros(2, int), (128, 64))
    if embeddings.classifier is not None:
        embeddings.to(torch.device("cpu")).logits(embeddings.embeddings[:, 0].float())


def _use_cache(given: Path, entry: Path) -> None:
    shutil.copytree(given, entry)
    arrays = array_cache.load_or_create(
        entry, {"crops": SHAPE}, DTYPE, lambda: iter([{"crops": _array()}]), 2**20, "crops"
    )
    assert arrays is not None
    assert (arrays["crops"].shape, arrays["crops"].dtype) == (SHAPE, DTYPE)
    digest = json.loads((entry / "sha256.json").read_bytes())["crops"]
    assert digest == sha256((entry / "crops.npy").read_bytes()).hexdigest()
