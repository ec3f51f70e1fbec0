"""Parity and retrieval equal a plain computation, and budgets are enforced exactly."""

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


def add_noise(
    features: evaluation.QueryGalleryFeatures, scale: float
) -> evaluation.QueryGalleryFeatures:
    rng = np.random.default_rng(0)
    return evaluation.QueryGalleryFeatures(
        *(
            (f + scale * rng.normal(size=f.shape)).astype(np.float32)
            for f in (features.query, features.gallery)
        )
    )


def test_checkpoint_has_perfect_parity_with_itself(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    parity, retrieval = compare_with_reference(reference, reference.features)
    assert parity.min_cosine == pytest.approx(1)
    assert parity.max_abs_difference == 0
    assert retrieval.mAP_loss_points == retrieval.rank1_loss_points == 0
    check_budget(parity, retrieval, AccuracyBudget(0.999999, 0, 0))


def test_parity_and_retrieval_equal_a_plain_computation(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    query, gallery = test_split.query, test_split.gallery
    with torch.inference_mode():
        q, g = (small.network(small.preprocess(s.crops)).numpy() for s in (query, gallery))
    other = add_noise(reference.features, 0.3 * q.std())
    parity, retrieval = compare_with_reference(reference, other)
    expected, actual = np.concatenate([q, g]), np.concatenate([other.query, other.gallery])
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(expected, actual, strict=True)
    ]
    assert parity.min_cosine == pytest.approx(min(cosines), abs=1e-5)
    assert parity.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert parity.max_abs_difference == pytest.approx(np.abs(expected - actual).max(), abs=1e-4)
    labels = (query.pids, gallery.pids, query.camids, gallery.camids)
    before, after = evaluate(q, g, *labels), evaluate(other.query, other.gallery, *labels)
    assert retrieval.checkpoint_mAP == pytest.approx(before.mAP)
    assert retrieval.exported_mAP == pytest.approx(after.mAP)
    assert retrieval.checkpoint_rank1 == pytest.approx(before.rank(1))
    assert retrieval.exported_rank1 == pytest.approx(after.rank(1))
    assert retrieval.queries == len(query)
    assert retrieval.mAP_loss_points == pytest.approx(100 * (before.mAP - after.mAP))


def test_normalised_reference_has_unit_vectors(small, test_split):
    reference = measure_reference(small, test_split, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(reference.features.query, axis=1), 1, rtol=1e-6)


def test_camera_rule_is_off_without_camera_ids(small, query, gallery):
    def has_camera_rule(query):
        reference = measure_reference(
            small, evaluation.QueryGalleryCrops(query, gallery), normalize=False
        )
        return compare_with_reference(reference, reference.features)[1].camera_rule

    assert has_camera_rule(query)
    assert not has_camera_rule(replace(query, camids=None))


def test_non_finite_features_are_counted(small, test_split):
    reference = measure_reference(small, test_split, normalize=False)
    broken = reference.features.gallery.copy()
    broken[[1, 4], 2] = np.inf, np.nan
    with pytest.raises(VerificationError, match="2 of 24 features are not finite"):
        compare_with_reference(
            reference, evaluation.QueryGalleryFeatures(reference.features.query, broken)
        )


def test_low_cosine_exceeds_the_budget():
    check_budget(FeatureParity(0.99, 1.0, 0.0), GOOD_RETRIEVAL, BUDGET)
    with pytest.raises(VerificationError, match=r"minimum cosine 0\.989000, budget 0\.99"):
        check_budget(FeatureParity(0.989, 1.0, 0.0), GOOD_RETRIEVAL, BUDGET)


def test_map_loss_can_exceed_the_budget_but_a_gain_cannot():
    check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.4951), BUDGET)
    check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.9), BUDGET)
    with pytest.raises(
        VerificationError, match=r"mAP fell from 50\.00% to 49\.40%, budget 0\.5 points"
    ):
        check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_mAP=0.494), BUDGET)


def test_rank_1_loss_over_budget_tolerates_a_single_query():
    with pytest.raises(
        VerificationError, match=r"Rank-1 fell from 60\.00% to 58\.90%, budget 1 points"
    ):
        check_budget(GOOD_PARITY, replace(GOOD_RETRIEVAL, exported_rank1=0.589), BUDGET)
    few = replace(GOOD_RETRIEVAL, queries=20)
    check_budget(GOOD_PARITY, replace(few, exported_rank1=0.55), BUDGET)
    with pytest.raises(VerificationError, match="Rank-1"):
        check_budget(GOOD_PARITY, replace(few, exported_rank1=0.50), BUDGET)


def test_default_budgets_are_those_in_the_documentation():
    assert DEFAULT_BUDGETS["fp16"].max_mAP_loss_points == 0.1
    assert DEFAULT_BUDGETS["int8"].max_mAP_loss_points == 1.0


def test_budgets_are_overridden_value_by_value():
    budgets = parse_budgets(["int8.mAP=2", "int8.cosine=0.9", "fp16.rank1=0"])
    assert budgets["int8"] == replace(
        DEFAULT_BUDGETS["int8"], max_mAP_loss_points=2, min_cosine=0.9
    )
    assert budgets["fp16"] == replace(DEFAULT_BUDGETS["fp16"], max_rank1_loss_points=0)
    assert budgets["fp32"] == DEFAULT_BUDGETS["fp32"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("int9.mAP=2", "did you mean 'int8'"),
        ("int8.map=2", "Unknown budget 'map'. Known: cosine, mAP, rank1"),
        ("int8=2", "Unknown budget ''"),
        ("int8.mAP=much", "looks like int8.mAP=2, not 'int8.mAP=much'"),
        ("int8.mAP", "looks like int8.mAP=2"),
        ("int8.mAP=nan", "looks like int8.mAP=2"),
    ],
)
def test_invalid_budget_assignments_raise(assignment, message):
    with pytest.raises(PivlError, match=message):
        parse_budgets([assignment])


def test_unscored_crops_are_compared_by_their_features_only(small, test_split):
    unscored = replace(test_split, scored=False)
    reference = measure_reference(small, unscored, normalize=False)
    assert reference.result is None
    scored = compare_with_reference(
        measure_reference(small, test_split, normalize=False), reference.features
    )
    parity, retrieval = compare_with_reference(reference, reference.features)
    assert (parity, retrieval) == (scored[0], None)
    check_budget(parity, None, BUDGET)
    with pytest.raises(VerificationError, match="minimum cosine"):
        check_budget(replace(parity, min_cosine=0.98), None, BUDGET)
