"""CLIP-ReID's checkpoints at full size against the figures of its official code (eb1898b)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from export.cost import check_no_training_layers, network_cost
from export.onnx_export import write_onnx
from export.onnx_inference import run_session
from pivl_distill.config import LossSettings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.losses import (
    i2t_contrastive_loss,
    identity_contrastive_loss,
    t2i_contrastive_loss,
)
from pivl_distill.models.network import ReIDOutput
from pivl_distill.runtime.onnx_session import open_session
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.objective import loss_terms
from teachers.clip_reid_checkpoint import ClipReIDCheckpoint, parse_checkpoint
from teachers.teacher import Teacher

LABELS = torch.tensor([0, 0, 3, 3, 7, 7, 9, 9])
IDENTITY_WEIGHT = {"vit": 0.25, "rn50": 1.0}
TOLERANCE = 1e-4
SCORE_TOLERANCE = {"vit": TOLERANCE, "rn50": 3e-4}
"""The ViT's scores lie 1.3e-5 from the reference's. The RN50's necks, batch norms over eight crops,
blow the rounding of its many others up: in double precision it lies 1.2e-4 from the reference,
which is single precision; in single precision 2e-6 to 8e-5, by how many threads add up. So 1e-4 may
fail on another machine and say nothing; the necks alone are held to it below."""


@dataclass(frozen=True)
class Answers:
    """What our network says about the golden images, in evaluation and in training mode."""

    model: str
    checkpoint: ClipReIDCheckpoint
    evaluated: Tensor
    trained: ReIDOutput
    texts: Tensor


@pytest.fixture(scope="module", params=["vit", "rn50"])
def answers(request, golden_shapes, golden_state, golden_images) -> Answers:
    checkpoint = parse_checkpoint(golden_state(golden_shapes[request.param]), request.param)
    teacher = Teacher(checkpoint.clip, checkpoint.identities, None)  # CLIP-ReID has no fusion head
    teacher.neck, teacher.projected_neck = checkpoint.neck, checkpoint.projected_neck
    with torch.inference_mode():
        evaluated = checkpoint.embedding_model().network(golden_images)
        trained = copy.deepcopy(teacher).train()(golden_images)  # running statistics change
    return Answers(request.param, checkpoint, evaluated, trained, checkpoint.identity_texts())


@pytest.fixture
def golden(answers, golden_figures):
    """`golden(what)` are the reference's figures for the model at hand."""
    return lambda what: golden_figures[f"{answers.model}__{what}"]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_everything_follows_from_names_and_shapes(answers):
    clip = answers.checkpoint.clip
    assert answers.checkpoint.identities == 10
    assert clip.size_hw == (256, 128)
    assert clip.image.grid_hw == (16, 8)
    if answers.model == "vit":
        assert (clip.name, clip.mean, clip.std) == ("ViT-B-16-quickgelu", (0.5,) * 3, (0.5,) * 3)
    else:
        assert (clip.name, clip.mean) == ("RN50-quickgelu", (0.485, 0.456, 0.406))


def test_evaluation_features(answers, golden):
    assert difference(answers.evaluated, golden("eval_feature")) < TOLERANCE


def test_text_features(answers, golden):
    assert difference(answers.texts, golden("text_feature")) < TOLERANCE


def test_features_in_training_mode(answers, golden):
    out = answers.trained
    for ours, what in zip(out.features, ("feat_last", "feat", "feat_proj"), strict=True):
        assert difference(ours, golden(what)) < TOLERANCE, what
    assert difference(out.projected @ answers.texts.T, golden("logits_i2t")) < TOLERANCE


def test_scores_in_training_mode(answers, golden):
    for ours, what in zip(answers.trained.logits, ("score", "score_proj"), strict=True):
        assert difference(ours, golden(what)) < SCORE_TOLERANCE[answers.model], what


def test_necks_alone_in_training_mode(answers, golden):
    """The scores of the reference from its own features, where no rounding has gone before."""
    checkpoint = answers.checkpoint
    for neck, feature, what in (
        (checkpoint.neck, "feat", "score"),
        (checkpoint.projected_neck, "feat_proj", "score_proj"),
    ):
        with torch.inference_mode():
            ours = copy.deepcopy(neck).train()(golden(feature))
        assert difference(ours, golden(what)) < TOLERANCE, what


def test_losses_of_stage_2(answers, golden):
    settings = LossSettings(
        identity=IDENTITY_WEIGHT[answers.model], triplet=1, image_to_text=1, triplet_normalize=False
    )
    # CLIP-ReID keeps the norms of its texts.
    none = torch.zeros(10, 20, dtype=torch.bool)
    text_features = TextFeatures(answers.texts, torch.zeros(10, 20, 1), none, LIP20)
    terms = loss_terms(answers.trained, LABELS, None, text_features, settings)
    ours = [*terms.values(), sum(terms.values())]
    ours[0] = ours[0] / settings.identity
    assert list(terms) == ["identity", "triplet", "image_to_text"]
    assert torch.stack(ours).tolist() == pytest.approx(golden("losses")[:4].tolist(), rel=TOLERANCE)


def test_losses_of_stage_1(answers, golden):
    owned, owner = LABELS.unique(return_inverse=True)
    batch = (answers.trained.projected, answers.texts[owned], owner, 1.0)
    i2t, t2i = golden("losses")[4:].tolist()
    assert i2t_contrastive_loss(*batch).item() == pytest.approx(i2t, rel=TOLERANCE)
    assert t2i_contrastive_loss(*batch).item() == pytest.approx(t2i, rel=TOLERANCE)
    assert identity_contrastive_loss(*batch).item() == pytest.approx(i2t + t2i, rel=TOLERANCE)


@pytest.mark.slow
def test_exported_features(answers, golden, golden_images, tmp_path):
    model = answers.checkpoint.embedding_model()
    path = write_onnx(model, tmp_path / "model.onnx")
    assert (
        difference(run_session(open_session(path), golden_images), golden("eval_feature"))
        < TOLERANCE
    )
    cost = network_cost(model.network, model.size_hw)
    assert cost.parameters > 38e6
    check_no_training_layers(path, cost)
