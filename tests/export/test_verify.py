"""Parity is near one for a true export, and a wrong graph is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.graph import write_onnx
from export.session import open_session, run
from export.verify import (
    Budget,
    Parity,
    RetrievalComparison,
    check_budget,
    compare_retrieval,
    verify,
)
from pivl_distill.errors import VerificationError
from pivl_distill.retrieval import evaluate

GOOD_PARITY = Parity(1.0, 1.0, 0.0)
GOOD_RETRIEVAL = RetrievalComparison(0.5, 0.5, 0.6, 0.6)


def test_a_true_export_is_within_budget(mobilenet, query, gallery):
    model, path = mobilenet
    parity = verify(model, path, query.crops, normalize=False)
    assert 0.999999 < parity.min_cosine <= parity.mean_cosine < 1.000001
    retrieval = compare_retrieval(model, path, query, gallery)
    check_budget(path, parity, retrieval, Budget())
    assert retrieval.exported_mAP == pytest.approx(retrieval.checkpoint_mAP, abs=1e-3)


def test_figures_are_those_of_a_plain_computation(exported, query, gallery):
    """Another network's graph, so that both sides differ."""
    model, _ = exported("mobilenetv2_025")
    other, path = exported("resnet18")
    session = open_session(path)

    def both(crops):
        images = model.preprocess(crops)
        with torch.inference_mode():
            return model.network(images).numpy(), run(session, images).numpy()

    q, g = both(query.crops), both(gallery.crops)
    labels = (query.pids, gallery.pids, query.camids, gallery.camids)
    ours, theirs = evaluate(q[0], g[0], *labels), evaluate(q[1], g[1], *labels)
    comparison = compare_retrieval(model, path, query, gallery)
    assert comparison.checkpoint_mAP == pytest.approx(ours.mAP)
    assert comparison.exported_mAP == pytest.approx(theirs.mAP)
    assert comparison.checkpoint_rank1 == pytest.approx(ours.rank(1))
    assert comparison.exported_rank1 == pytest.approx(theirs.rank(1))
    assert other.name == "resnet18"


def test_unknown_cameras_are_told(mobilenet, query, gallery):
    model, path = mobilenet
    assert compare_retrieval(model, path, query, gallery).camera_rule
    assert not compare_retrieval(model, path, replace(query, camids=None), gallery).camera_rule


def test_a_graph_with_other_weights_is_noticed(mobilenet, query, tmp_path):
    model, _ = mobilenet
    first = model.network.conv_stem.weight
    kept = first.detach().clone()
    with torch.no_grad():
        first.mul_(torch.linspace(0.5, 1.5, first.numel()).view_as(first))
    path = write_onnx(model, tmp_path / "other.onnx", normalize=True)
    with torch.no_grad():
        first.copy_(kept)
    parity = verify(model, path, query.crops, normalize=True)
    assert parity.min_cosine < Budget().min_cosine

    features = model.network(model.preprocess(query.crops)).detach().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    theirs = run(open_session(path), model.preprocess(query.crops)).numpy()
    cosine = np.array([a @ b for a, b in zip(features, theirs, strict=True)])
    assert parity.min_cosine == pytest.approx(cosine.min(), abs=1e-5)
    assert parity.mean_cosine == pytest.approx(cosine.mean(), abs=1e-5)
    assert parity.max_abs_difference == pytest.approx(np.abs(features - theirs).max(), abs=1e-5)


@pytest.mark.parametrize("cosine", [0.99, float("nan")])
def test_a_low_cosine_is_over_budget(tmp_path, cosine):
    with pytest.raises(VerificationError, match=r"least cosine .*budget 0.9999"):
        check_budget(tmp_path, Parity(cosine, 1.0, 0.0), GOOD_RETRIEVAL, Budget())


@pytest.mark.parametrize("exported_map", [0.498, 0.502])
def test_a_changed_map_is_over_budget(tmp_path, exported_map):
    retrieval = RetrievalComparison(0.5, exported_map, 0.6, 0.6)
    assert abs(retrieval.mAP_change_points) == pytest.approx(0.2)
    with pytest.raises(VerificationError, match=r"mAP 50.00% became .*budget 0.1 points"):
        check_budget(tmp_path, GOOD_PARITY, retrieval, Budget())
    check_budget(tmp_path, GOOD_PARITY, retrieval, Budget(max_mAP_change_points=0.3))
