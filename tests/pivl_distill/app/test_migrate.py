"""Stored vectors are mapped to another network, and refused where that does not pay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from command_line import refuse, succeed
from pivl_distill.app.migrate import (
    Migration,
    check_pays,
    fit_migration,
    migrate_files,
    open_sources,
)
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, vector_space
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.vectors.files import VectorFile
from pivl_distill.vectors.space import VectorSpace

SPEC = "synthetic:tiny"


def network(path: Path, cells: tuple[int, int], mix: int) -> LoadedNetwork:
    """Return a network whose vectors are randomly mixed mean colours of a grid of cells."""
    torch.manual_seed(mix)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Flatten())
    layer = nn.Linear(3 * cells[0] * cells[1], 48)
    model = EmbeddingModel("cells", nn.Sequential(pool, layer), (64, 32), (0.5,) * 3, (0.5,) * 3)
    return LoadedNetwork(path, model, space=vector_space(model))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedNetwork, LoadedNetwork]:
    """A coarse old network, and a finer new one."""
    folder = tmp_path_factory.mktemp("networks")
    return network(folder / "old", (2, 1), 0), network(folder / "new", (8, 2), 1)


@pytest.fixture(scope="module")
def migration(pair: tuple[LoadedNetwork, LoadedNetwork]) -> Migration:
    return fit_migration(*pair, SPEC)


def store(path: Path, vectors: np.ndarray, space: VectorSpace | None, **facts: object) -> Path:
    names = [f"{number}.png" for number in range(len(vectors))]
    facts |= {} if space is None else space.metadata()
    np.savez(path, names=names, features=vectors, metadata=json.dumps(facts))
    return path


def test_the_written_file_holds_mapped_vectors_in_the_new_space(
    migration: Migration, tmp_path: Path
) -> None:
    vectors, out = migration.old.probe, tmp_path / "new" / "v.npz"
    source = store(tmp_path / "v.npz", vectors, migration.old.space, unreadable=["x"])
    (written,) = migrate_files(migration, open_sources(source, out, migration.old))
    file = VectorFile.open(written)
    names, mapped = file.read()
    assert (written, names[:2]) == (out, ["0.png", "1.png"])
    np.testing.assert_array_equal(mapped, migration.fitted(vectors))
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    assert file.space == migration.new.space
    assert migration.old.space is not None
    (step,) = file.metadata["migrated"]
    assert step["from"] == migration.old.space.id
    assert step["mAP"]["migrated"] == migration.after.mAP
    assert file.metadata["unreadable"] == ["x"]
    again = store(tmp_path / "w.npz", vectors, migration.old.space, migrated=[step])
    facts = migration.facts(VectorFile.open(again))
    assert [entry["from"] for entry in facts["migrated"]] == [migration.old.space.id] * 2


def test_a_folder_of_parquet_files_is_migrated_file_by_file(
    migration: Migration, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    from pivl_distill.vectors.files import vector_writer

    assert migration.old.space is not None
    for name in ("a", "b"):
        path = tmp_path / "old" / f"{name}.parquet"
        with vector_writer(path)(path, 48, migration.old.space.metadata()) as add:
            add(name, migration.old.probe[0])
    sources = open_sources(tmp_path / "old", tmp_path / "new", migration.old)
    written = list(migrate_files(migration, sources))
    assert written == [tmp_path / "new" / "a.parquet", tmp_path / "new" / "b.parquet"]
    assert VectorFile.open(written[1]).read()[0] == ["b"]


def test_sources_that_do_not_fit_are_refused_before_the_work(
    migration: Migration, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, out = migration.old, tmp_path / "out.npz"
    path = store(tmp_path / "v.npz", old.probe, VectorSpace("0" * 32))
    with pytest.raises(PivlError, match=r"in the vector space 0{32}, but .*--from"):
        open_sources(path, out, old)
    with pytest.raises(PivlError, match=r"vectors of 3 values, but .* makes 48"):
        open_sources(store(path, old.probe[:, :3], old.space), out, old)
    with pytest.raises(PivlError, match="name another --out"):
        open_sources(store(path, old.probe, old.space), path, old)
    with pytest.raises(PivlError, match="no file or folder of vectors"):
        open_sources(tmp_path / "none.npz", out, old)
    with pytest.raises(PivlError, match="No Parquet file"):
        open_sources(tmp_path, tmp_path / "new", old)
    with pytest.raises(PivlError, match=r"must end in \.npz"):
        open_sources(path, tmp_path / "out.csv", old)
    assert open_sources(store(path, old.probe, None), out, old)
    assert "does not say which network made it" in caplog.text


def test_it_pays_if_the_new_network_finds_more_than_the_old_one(
    migration: Migration, caplog: pytest.LogCaptureFixture
) -> None:
    better = replace(migration, after=replace(migration.before, mAP=migration.before.mAP + 0.1))
    check_pays(better, force=False)
    worse = replace(migration, after=replace(migration.before, mAP=migration.before.mAP))
    with pytest.raises(PivlError, match=r"does not pay: .* keep that network .*--force"):
        check_pays(worse, force=False)
    check_pays(worse, force=True)
    assert "does not pay" in caplog.text
    assert migration.old.space is not None
    trained = replace(migration.new, space=VectorSpace("1" * 32, (migration.old.space.id,)))
    with pytest.raises(PivlError, match="trained for this gallery"):
        check_pays(replace(better, new=trained), force=False)


def test_without_query_and_gallery_training_identities_are_held_out(
    pair: tuple[LoadedNetwork, LoadedNetwork],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from pivl_distill.app import migrate

    real = migrate.load_dataset

    def without_test(spec: str):
        return replace(real(spec), query=(), gallery=())

    monkeypatch.setattr(migrate, "load_dataset", without_test)
    held_out = fit_migration(*pair, SPEC)
    assert "training identities are held out" in caplog.text
    assert 0 < held_out.after.mAP <= 1


def test_an_unknown_space_or_data_set_is_refused(
    pair: tuple[LoadedNetwork, LoadedNetwork], tmp_path: Path
) -> None:
    old, new = pair
    with pytest.raises(PivlError, match="earlier version"):
        fit_migration(replace(old, space=None), new, SPEC)
    (tmp_path / "new.onnx").touch()
    with pytest.raises(PivlError, match="with --data"):
        fit_migration(old, replace(new, path=tmp_path / "new.onnx"))


def test_the_command(deploy: Callable[..., Path], tmp_path: Path) -> None:
    old, new = deploy("fp16", "int8"), deploy("fp16", normalize=True)
    vectors = tmp_path / "v.npz"
    space = VectorSpace(json.loads((old / "manifest.json").read_text())["vector_space"])
    store(vectors, np.random.default_rng(0).random((3, 24), np.float32), space)
    options = ("migrate", vectors, "--from", old, "--to", new, "--data", SPEC)
    out = tmp_path / "out.npz"
    output = refuse(*options, "-o", out)  # both are exports of one network
    assert "new → migrated" in output
    assert "Migration does not pay" in output
    assert not out.exists()
    assert "loss of the map" in succeed(*options, "-o", out, "--force")
    assert VectorFile.open(out).count == 3
