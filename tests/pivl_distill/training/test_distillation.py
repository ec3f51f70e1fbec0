"""Every term of distillation equals plain loops, values and gradients, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from equation_loops import assert_same, dot, mean, norm, normal
from pivl_distill.config import DistillationSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.distillation import (
    TeacherTargets,
    anchor_loss,
    class_means,
    distillation_terms,
    embedding_loss,
    logit_loss,
    relation_loss,
    relaxed_contrastive_loss,
)
from pivl_distill.training.teacher_embeddings import Classifier, TeacherEmbeddings

OFF = dict.fromkeys(("embedding", "anchors", "relation", "relaxed_contrastive", "logits"), 0.0)
TAU, DIM, PROJECTED = 0.2, 6, 4


def softmax(scores: list[Tensor]) -> list[Tensor]:
    total = torch.stack([score.exp() for score in scores]).sum()
    return [score.exp() / total for score in scores]


def divergence(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Σ_k p_k · log(p_k / q_k) of the softmax p of the teacher and q of the student."""
    pairs = zip(softmax(teacher), softmax(student), strict=True)
    return torch.stack([p * (p / q).log() for p, q in pairs]).sum()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return dot(one, other) / (norm(one) * norm(other))


def test_embedding_loss_depends_on_the_direction_alone() -> None:
    features, embeddings = normal(4, 5), normal(4, 5, seed=1)
    gaps = [a / norm(a) - b / norm(b) for a, b in zip(features, embeddings, strict=True)]
    expected = mean([dot(gap, gap) for gap in gaps])
    assert_same(embedding_loss(features, embeddings), expected, features, embeddings)


def test_anchor_loss() -> None:
    features, teacher, raw = normal(4, 5), normal(4, 5, seed=1), normal(3, 5, seed=2)
    anchors = torch.stack([anchor / norm(anchor) for anchor in raw])
    rows = [
        divergence([cosine(t, a) / TAU for a in anchors], [cosine(f, a) / TAU for a in anchors])
        for f, t in zip(features, teacher, strict=True)
    ]
    assert_same(anchor_loss(features, teacher, anchors, TAU), mean(rows), features, teacher, raw)


def test_relation_loss_compares_a_crop_with_all_others() -> None:
    features, teacher = normal(5, 4), normal(5, 7, seed=1)
    rows = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        rows.append(
            divergence(
                [cosine(teacher[i], teacher[j]) / TAU for j in others],
                [cosine(features[i], features[j]) / TAU for j in others],
            )
        )
    assert_same(relation_loss(features, teacher, TAU), mean(rows), features, teacher)


def test_relaxed_contrastive_loss() -> None:
    """Kim et al. 2021: w d² + (1 − w) [1 − d]₊², d relative to its mean, w = exp(−|t_i − t_j|²)."""
    features, teacher = normal(5, 4), normal(5, 7, seed=1)
    rows = []
    for i in range(5):
        distances = [
            norm(features[i] - other) if j != i else features.new_zeros(())
            for j, other in enumerate(features)
        ]
        mu, terms = mean(distances), []
        for j in range(5):
            if j == i:
                continue
            gap = teacher[i] / norm(teacher[i]) - teacher[j] / norm(teacher[j])
            weight, distance = (-dot(gap, gap)).exp(), distances[j] / mu
            push = (1 - distance).clamp(min=0)
            terms.append(weight * distance * distance + (1 - weight) * push * push)
        rows.append(torch.stack(terms).sum())
    assert_same(relaxed_contrastive_loss(features, teacher), mean(rows), features, teacher)


def test_equal_features_have_a_finite_relaxed_contrastive_gradient() -> None:
    features = torch.ones(3, 4, requires_grad=True)
    relaxed_contrastive_loss(features, torch.eye(3)).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_logit_loss() -> None:
    logits, teacher = normal(3, 5), normal(3, 5, seed=1)
    pairs = zip(logits, teacher, strict=True)
    rows = [4 * divergence([x / 2 for x in t], [x / 2 for x in s]) for s, t in pairs]
    assert_same(logit_loss(logits, teacher, 2.0), mean(rows), logits, teacher)


@pytest.mark.parametrize("loss", [relation_loss, anchor_loss, logit_loss, embedding_loss])
def test_a_perfect_student_has_no_loss(loss: Callable[..., Tensor]) -> None:
    features, anchors = normal(5, 4), torch.eye(4, dtype=torch.float64)
    arguments = {relation_loss: (TAU,), anchor_loss: (anchors, TAU), logit_loss: (2.0,)}
    torch.testing.assert_close(
        loss(features, features, *arguments.get(loss, ())).item(), 0.0, rtol=0, atol=1e-12
    )


# Targets


def embeddings(count: int = 6, views: int = 2, classes: int = 3) -> TeacherEmbeddings:
    rng = np.random.default_rng(0)
    return TeacherEmbeddings(
        normal(count, views, DIM, seed=3).detach().half(),
        rng.random((count, views)) < 0.5,
        rng.uniform(-0.1, 0.1, (count, views, 2)).astype(np.float32),
        PROJECTED,
        Classifier(normal(classes, DIM).detach().float(), torch.zeros(classes), (2, 5, 9)),
    )


LABELS = torch.tensor([0, 1, 2, 0, 1, -1])


def test_anchors_are_the_centred_means_of_each_identity() -> None:
    settings = DistillationSettings(**OFF | {"anchors": 1.0}, views=2)
    texts = normal(3, PROJECTED, seed=4).detach()
    targets = TeacherTargets.prepare(embeddings(), settings, LABELS, texts)
    values = embeddings().embeddings.double()
    average = mean(list(values.flatten(0, 1)))
    torch.testing.assert_close(targets.mean.double(), average, rtol=0, atol=1e-6)
    assert targets.visual_anchors is not None
    assert targets.text_anchors is not None
    for label in range(3):
        rows = [values[n, 0] - average for n in range(6) if LABELS[n] == label]
        total = mean([row / norm(row) for row in rows])
        expected = total / norm(total)
        torch.testing.assert_close(
            targets.visual_anchors[label].double(), expected, rtol=0, atol=1e-6
        )
        text = texts[label] - mean(list(texts))
        torch.testing.assert_close(
            targets.text_anchors[label], text / norm(text), rtol=0, atol=1e-9
        )


def test_class_means_leave_unlabelled_crops_out() -> None:
    features = torch.eye(3)
    means = class_means(features, torch.tensor([1, -1, 0]))
    assert torch.equal(means, features[[2, 0]])


@pytest.mark.parametrize("without", ["labels", "texts", "projections", "weight"])
def test_anchors_exist_only_for_what_is_known(without: str) -> None:
    weight = 0.0 if without == "weight" else 1.0
    settings = DistillationSettings(**OFF | {"anchors": weight})
    teacher, texts = embeddings(), normal(3, PROJECTED)
    if without == "projections":
        teacher = replace(teacher, projected_dim=0)
    targets = TeacherTargets.prepare(
        teacher,
        settings,
        None if without == "labels" else LABELS,
        None if without == "texts" else texts,
    )
    assert (targets.visual_anchors is None) == (without in ("labels", "weight"))
    assert targets.text_anchors is None


def test_logits_need_a_classifier() -> None:
    settings = DistillationSettings(**OFF | {"logits": 1.0})
    TeacherTargets.prepare(embeddings(), settings, LABELS, None)
    with pytest.raises(PivlError, match=r"distill\.logits needs a teacher that classifies"):
        TeacherTargets.prepare(replace(embeddings(), classifier=None), settings, LABELS, None)


def test_more_views_than_stored_raise() -> None:
    settings = DistillationSettings(**OFF | {"embedding": 1.0}, views=3)
    with pytest.raises(PivlError, match=r"distill\.views is 3, .* have 2 views; teach with"):
        TeacherTargets.prepare(embeddings(), settings, LABELS, None)


def student_output(batch: int = 3) -> ReIDOutput:
    return ReIDOutput(
        features=(normal(batch, 5, seed=5).float(),),
        logits=(normal(batch, 3, seed=6).float(),),
        projected=normal(batch, PROJECTED, seed=7).float(),
        aligned=None,
        distilled_embedding=normal(batch, DIM, seed=8).float(),
    )


def test_terms_are_the_weighted_losses_of_the_seen_views() -> None:
    weights = dict(zip(OFF, (0.5, 2.0, 3.0, 4.0, 5.0), strict=True))
    settings = DistillationSettings(**weights, views=2)
    texts, output = normal(3, PROJECTED, seed=4).detach().float(), student_output()
    targets = TeacherTargets.prepare(embeddings(), settings, LABELS, texts)
    index, view = torch.tensor([4, 0, 2]), torch.tensor([1, 0, 1])
    terms = distillation_terms(output, index, view, targets)
    assert list(terms) == list(OFF)
    stored = torch.stack([embeddings().embeddings[i, v] for i, v in ((4, 1), (0, 0), (2, 1))])
    seen, feature = stored.float(), output.features[0]
    distilled, projected = output.distilled_embedding, output.projected
    centred = seen - targets.mean
    classifier = embeddings().classifier
    visual = anchor_loss(distilled, centred, targets.visual_anchors, 0.1)
    textual = anchor_loss(projected, seen[:, -PROJECTED:], targets.text_anchors, 0.1)
    losses = {
        "embedding": embedding_loss(distilled, centred),
        "anchors": visual + textual,
        "relation": relation_loss(feature, seen, 0.1),
        "relaxed_contrastive": relaxed_contrastive_loss(feature, seen),
        "logits": logit_loss(output.logits[0], seen @ classifier.weight.T, 4.0),
    }
    for name, loss in losses.items():
        torch.testing.assert_close(terms[name], weights[name] * loss, rtol=1e-5, atol=1e-6)


def test_terms_without_a_weight_are_left_out() -> None:
    settings = DistillationSettings(**OFF | {"relation": 1.0})
    targets = TeacherTargets.prepare(embeddings(), settings, LABELS, None)
    rows = torch.tensor([0, 1, 2])
    assert distillation_terms(student_output(), rows, rows * 0, targets).keys() == {"relation"}
