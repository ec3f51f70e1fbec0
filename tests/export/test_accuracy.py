"""Parity and retrieval are those of a plain computation, and budgets are kept to the letter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.accuracy import (
    DEFAULT_BUDGETS,
    AccuracyBudget,
    FeatureParity,
    RetrievalComparison,
    check_budget,
    compare_with_reference,
    measure_reference,
    parse_budgets,
)
from pivl_distill.errors import PivlError, VerificationError
from pivl_distill.retrieval import evaluate, evaluation

GOOD_PARITY = FeatureParity(1.0, 1.0, 0.0)
GOOD_RETRIEVAL = RetrievalComparison(0.5, 0.5, 0.6, 0.6, 1000)
BUDGET = AccuracyBudget(min_cosine=0.99, max_mAP_loss_points=0.5, max_rank1_loss_points=1.0)


def disturbed(
    features: evaluation.QueryGalleryFeatures, scale: float
) -> evaluation.QueryGalleryFeatures:
    rng = np.random.default_rng(0)
    return evaluation.QueryGalleryFeatures(
        *(
            (f + scale * rng.normal(size=f.shape)).astype(np.float32)
            for f in (features.query, features.gallery)
        )
    )


def test_the_checkpoint_against_itself(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    parity, retrieval = compare_with_reference(reference, reference.features)
    assert parity.min_cosine == pytest.approx(1)
    assert parity.max_abs_difference == 0
    assert retrieval.mAP_loss_points == retrieval.rank1_loss_points == 0
    check_budget(parity, retrieval, AccuracyBudget(0.999999, 0, 0))


def test_figures_are_those_of_a_plain_computation(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    query, gallery = test_split.query, test_split.gallery
    with torch.inference_mode():
        q, g = (small.network(small.preprocess(s.crops)).numpy() for s in (query, gallery))
    other = disturbed(reference.features, 0.3 * q.std())
    parity, retrieval = compare_with_reference(reference, other)
    ours, theirs = np.concatenate([q, g]), np.concatenate([other.query, other.gallery])
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True)
    ]
    assert parity.min_cosine == pytest.approx(min(cosines), abs=1e-5)
    assert parity.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert parity.max_abs_difference == pytest.approx(np.abs(ours - theirs).max(), abs=1e-4)
    labels = (query.pids, gallery.pids, query.camids, gallery.camids)
    before, after = evaluate(q, g, *labels), evaluate(other.query, other.gallery, *labels)
    assert retrieval.checkpoint_mAP == pytest.approx(before.mAP)
    assert retrieval.exported_mAP == pytest.approx(after.mAP)
    assert retrieval.checkpoint_rank1 == pytest.approx(before.rank(1))
    assert retrieval.exported_rank1 == pytest.approx(after.rank(1))
    assert retrieval.queries == len(query)
    assert retrieval.mAP_loss_points == pytest.approx(100 * (before.mAP - after.mAP))


def test_a_normalised_reference_has_unit_vectors(small, test_split):
    reference = measure_reference(small, test_split, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(reference.features.query, axis=1), 1, rtol=1e-6)


def test_unknown_cameras_are_told(small, query, gallery):
    def rule(query):
        reference = measure_reference(
            small, evaluation.QueryGalleryCrops(query, gallery), normalize=False
        )
        return compare_with_reference(reference, reference.features)[1].camera_rule

    assert rule(query)
    assert not rule(replace(query, camids=None))


def test_features_that_are_not_finite_are_counted(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    broken = reference.features.gallery.copy()
    broken[[1, 4], 2] = np.inf, np.nan
    with pytest.raises(VerificationError, match="2 of 24 features are not finite"):
        compare_with_reference(
            reference, evaluation.QueryGalleryFeatures(reference.features.query, broken)
        )


def test_a_low_cosine_is_over_budget():
    check_budget(FeatureParity(0.99, 1.0, 0.0), GOOD_RETRIEVAL, BUDGET)
    with pytest.raises(VerificationError, match=r"minimum cosine 0\.989000, budget 0\.99"):
        check_budget(FeatureParity(0.989, 1.0, 0.0), GOOD_RETRIEVAL, BUDGET)


def test_a_lost_map_is_over_budget_and_a_gain_is_not():
    check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.4951), BUDGET)
    check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.9), BUDGET)
    with pytest.raises(
        VerificationError, match=r"mAP fell from 50\.00% to 49\.40%, budget 0\.5 points"
    ):
        check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.494), BUDGET)


def test_a_lost_rank_1_is_over_budget_from_the_second_query_on():
    with pytest.raises(
        VerificationError, match=r"Rank-1 fell from 60\.00% to 58\.90%, budget 1 points"
    ):
        check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_rank1=0.589), BUDGET)
    few = replace(GOOD_RETRIEVAL, queries=20)
    check_budget(GOOD_PARITY, replace(few, exported_rank1=0.55), BUDGET)
    with pytest.raises(VerificationError, match="Rank-1"):
        check_budget(GOOD_PARITY, replace(few, exported_rank1=0.50), BUDGET)


def test_the_budgets_that_the_documentation_states():
    assert DEFAULT_BUDGETS["fp16"].max_mAP_loss_points == 0.1
    assert DEFAULT_BUDGETS["int8"].max_mAP_loss_points == 1.0


def test_budgets_are_replaced_one_figure_at_a_time():
    budgets = parse_budgets(["int8.mAP=2", "int8.cosine=0.9", "fp16.rank1=0"])
    assert budgets["int8"] == replace(
        DEFAULT_BUDGETS["int8"], max_mAP_loss_points=2, min_cosine=0.9
    )
    assert budgets["fp16"] == replace(DEFAULT_BUDGETS["fp16"], max_rank1_loss_points=0)
    assert budgets["fp32"] == DEFAULT_BUDGETS["fp32"]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("int9.mAP=2", "did you mean 'int8'"),
        ("int8.map=2", "Unknown budget 'map'. Known: cosine, mAP, rank1"),
        ("int8=2", "Unknown budget ''"),
        ("int8.mAP=much", "looks like int8.mAP=2, not 'int8.mAP=much'"),
        ("int8.mAP", "looks like int8.mAP=2"),
        ("int8.mAP=nan", "looks like int8.mAP=2"),
    ],
)
def test_budgets_that_cannot_be_read(assignment, sentence):
    with pytest.raises(PivlError, match=sentence):
        parse_budgets([assignment])
