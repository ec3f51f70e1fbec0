"""Queries of one network in the gallery of another: networks, and files of vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.app.cross_test import cross_test
from pivl_distill.app.targets import Evaluation, evaluate_target
from pivl_distill.data.datasets import load_dataset
from pivl_distill.errors import PivlError
from pivl_distill.retrieval import evaluate
from pivl_distill.vectors.space import VectorSpace

SPEC = "synthetic:tiny"


@pytest.fixture(scope="module")
def new(deployed_once: Path) -> Evaluation:
    return evaluate_target(deployed_once, SPEC)


def store(path: Path, new: Evaluation, space: VectorSpace | None, *, queries: bool = True) -> Path:
    """Write the vectors of gallery and, if asked for, query under the names that `embed` gives."""
    dataset = load_dataset(SPEC)
    splits = [(dataset.gallery, new.features.gallery)]
    splits += [(dataset.query, new.features.query)] * queries
    names = [
        f"{record.path.parent.name}/{record.path.name}" for part, _ in splits for record in part
    ]
    facts = {} if space is None else space.metadata()
    features = np.concatenate([vectors for _, vectors in splits])
    order = np.random.default_rng(0).permutation(len(names))
    np.savez(
        path, names=np.array(names)[order], features=features[order], metadata=json.dumps(facts)
    )
    return path


def test_scores_are_those_of_queries_and_gallery_put_together(
    new: Evaluation, deploy: Callable[..., Path], tmp_path: Path
) -> None:
    other = deploy("fp16", normalize=True)
    old = evaluate_target(other, SPEC)
    scores = cross_test(new, other)
    assert scores.old is not None
    assert scores.old.summary() == old.result.summary()
    assert scores.new is new.result
    query, gallery = new.test.query, new.test.gallery
    expected = evaluate(
        torch.from_numpy(new.features.query),
        torch.from_numpy(old.features.gallery),
        query.pids,
        gallery.pids,
        query.camids,
        gallery.camids,
    )
    assert scores.cross.summary() == expected.summary()


def test_stored_vectors_are_found_by_name(new: Evaluation, tmp_path: Path) -> None:
    scores = cross_test(new, store(tmp_path / "v.npz", new, new.space))
    assert scores.old is not None
    assert scores.old.summary() == scores.cross.summary() == new.result.summary()
    alone = cross_test(new, store(tmp_path / "v.npz", new, new.space, queries=False))
    assert alone.old is None
    assert alone.cross.summary() == new.result.summary()


def test_vectors_of_another_space_are_refused(new: Evaluation, tmp_path: Path) -> None:
    path, other = tmp_path / "v.npz", VectorSpace("0" * 32)
    with pytest.raises(PivlError, match=r"different networks.*--compatible-with"):
        cross_test(new, store(path, new, other))
    assert new.space is not None
    compatible = replace(new, space=replace(new.space, compatible_with=(other.id,)))
    assert cross_test(compatible, path).cross.summary() == new.result.summary()


def test_a_crop_of_the_gallery_without_a_vector_is_named(new: Evaluation, tmp_path: Path) -> None:
    path = store(tmp_path / "v.npz", new, new.space, queries=False)
    with np.load(path) as file:
        kept = {name: file[name][1:] for name in ("names", "features")}
        lost = str(file["names"][0])
    np.savez(path, **kept, metadata="{}")
    with pytest.raises(PivlError, match=rf"no vector of 1 of .*first {Path(lost).name}"):
        cross_test(new, path)


def test_networks_that_do_not_fit(
    new: Evaluation, deploy: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    shorter = replace(new, features=replace(new.features, query=new.features.query[:, :3]))
    with pytest.raises(PivlError, match=r"vectors of 3 values and .* of 24"):
        cross_test(shorter, deploy("fp16", "int8"))
    assert not caplog.records
    cross_test(replace(new, space=VectorSpace("0" * 32)), deploy("fp16", "int8"))
    assert "was not trained for the gallery" in caplog.text
