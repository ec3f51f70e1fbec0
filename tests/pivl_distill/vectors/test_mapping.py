"""The map between two spaces: ridge regression as in the textbook, chosen on unseen identities."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.vectors import mapping
from pivl_distill.vectors.mapping import fit_map, fit_ridge
from pivl_distill.vectors.unit import unit

RNG = np.random.default_rng(0)


def test_ridge_solves_the_normal_equations() -> None:
    old, new, strength = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 3)), 0.3
    (fitted,) = fit_ridge(old, new, [strength])
    x = old / np.linalg.norm(old, axis=1, keepdims=True)
    y = new / np.linalg.norm(new, axis=1, keepdims=True)
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean)
    ridge = strength * np.trace(gram) / 5 * np.eye(5)
    expected = np.linalg.solve(gram + ridge, (x - x_mean).T @ (y - y_mean))
    np.testing.assert_allclose(fitted.matrix, expected, atol=1e-10)
    mapped = (x - x_mean) @ expected + y_mean
    np.testing.assert_allclose(
        fitted(old), mapped / np.linalg.norm(mapped, axis=1, keepdims=True), atol=1e-6
    )
    assert fitted(old).dtype == np.float32


def test_a_linear_relation_is_found_and_lengths_do_not_count() -> None:
    pids = np.repeat(np.arange(20), 10)
    old = RNG.normal(size=(200, 6))
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    new = unit(old) @ rotation
    fitted, cosine = fit_map(5 * old, new, pids)
    assert cosine > 0.9999
    np.testing.assert_allclose(fitted(old), new, atol=1e-3)


def test_the_ridge_is_the_best_one_on_identities_that_are_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each strength alone gives its own cosine; together the best is chosen."""
    pids = np.repeat(np.arange(20), 4)
    old = RNG.normal(size=(80, 60))
    new = unit(old)[:, :10] + 0.05 * RNG.normal(size=(80, 10))
    chosen, cosine = fit_map(old, new, pids)
    alone = {}
    for strength in mapping.STRENGTHS:
        with monkeypatch.context() as patch:
            patch.setattr(mapping, "STRENGTHS", (strength,))
            alone[strength] = fit_map(old, new, pids)[1]
    assert len(set(alone.values())) == len(alone)
    assert cosine == max(alone.values())
    assert alone[chosen.strength] == cosine
    (expected,) = fit_ridge(old, new, [chosen.strength])  # on all identities
    np.testing.assert_array_equal(chosen.matrix, expected.matrix)


def test_too_few_identities_are_refused() -> None:
    vectors = RNG.normal(size=(8, 3))
    with pytest.raises(PivlError, match="fitted on 4 identities"):
        fit_map(vectors, vectors, np.repeat(np.arange(4), 2))
