"""CLIP-ReID's checkpoints at full size against outputs of its official code (eb1898b)."""

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
"""The ViT's logits differ by 1.3e-5 from the reference. The batch norms of the RN50's necks, over
eight crops, amplify the rounding errors of the layers before them: the logits differ from the
single-precision reference by 1.2e-4 in double precision, and by 2e-6 to 8e-5 in single precision,
depending on the number of threads. A correct network could therefore exceed 1e-4 on another
machine; `test_necks_alone_in_training_mode` holds the necks to 1e-4."""


@dataclass(frozen=True)
class Outputs:
    """Our network's outputs for the golden images, in evaluation and in training mode."""

    model: str
    checkpoint: ClipReIDCheckpoint
    evaluated: Tensor
    trained: ReIDOutput
    texts: Tensor


@pytest.fixture(scope="module", params=["vit", "rn50"])
def outputs(request, golden_shapes, golden_state, golden_images) -> Outputs:
    checkpoint = parse_checkpoint(golden_state(golden_shapes[request.param]), request.param)
    teacher = Teacher(checkpoint.clip, checkpoint.identities, None)  # CLIP-ReID has no fusion head
    teacher.neck, teacher.projected_neck = checkpoint.neck, checkpoint.projected_neck
    with torch.inference_mode():
        evaluated = checkpoint.embedding_model().network(golden_images)
        trained = copy.deepcopy(teacher).train()(golden_images)  # running statistics change
    return Outputs(request.param, checkpoint, evaluated, trained, checkpoint.identity_texts())


@pytest.fixture
def golden(outputs, golden_figures):
    """`golden(name)` returns an output of the reference for the same model."""
    return lambda name: golden_figures[f"{outputs.model}__{name}"]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_architecture_follows_from_names_and_shapes(outputs):
    clip = outputs.checkpoint.clip
    assert outputs.checkpoint.identities == 10
    assert clip.size_hw == (256, 128)
    assert clip.image.grid_hw == (16, 8)
    if outputs.model == "vit":
        assert (clip.name, clip.mean, clip.std) == ("ViT-B-16-quickgelu", (0.5,) * 3, (0.5,) * 3)
    else:
        assert (clip.name, clip.mean) == ("RN50-quickgelu", (0.485, 0.456, 0.406))


def test_evaluation_features_equal_the_reference(outputs, golden):
    assert difference(outputs.evaluated, golden("eval_feature")) < TOLERANCE


def test_text_features_equal_the_reference(outputs, golden):
    assert difference(outputs.texts, golden("text_feature")) < TOLERANCE


def test_features_in_training_mode(outputs, golden):
    out = outputs.trained
    for ours, name in zip(out.features, ("feat_last", "feat", "feat_proj"), strict=True):
        assert difference(ours, golden(name)) < TOLERANCE, name
    assert difference(out.projected @ outputs.texts.T, golden("logits_i2t")) < TOLERANCE


def test_logits_in_training_mode(outputs, golden):
    for ours, name in zip(outputs.trained.logits, ("score", "score_proj"), strict=True):
        assert difference(ours, golden(name)) < SCORE_TOLERANCE[outputs.model], name


def test_necks_alone_in_training_mode(outputs, golden):
    """The necks reproduce the reference's logits from its own features."""
    checkpoint = outputs.checkpoint
    for neck, feature, name in (
        (checkpoint.neck, "feat", "score"),
        (checkpoint.projected_neck, "feat_proj", "score_proj"),
    ):
        with torch.inference_mode():
            ours = copy.deepcopy(neck).train()(golden(feature))
        assert difference(ours, golden(name)) < TOLERANCE, name


def test_stage_2_losses_equal_the_reference(outputs, golden):
    settings = LossSettings(
        identity=IDENTITY_WEIGHT[outputs.model], triplet=1, image_to_text=1, triplet_normalize=False
    )
    # CLIP-ReID keeps the norms of its texts.
    none = torch.zeros(10, 20, dtype=torch.bool)
    text_features = TextFeatures(outputs.texts, torch.zeros(10, 20, 1), none, LIP20)
    terms = loss_terms(outputs.trained, LABELS, None, text_features, settings)
    ours = [*terms.values(), sum(terms.values())]
    ours[0] = ours[0] / settings.identity
    assert list(terms) == ["identity", "triplet", "image_to_text"]
    assert torch.stack(ours).tolist() == pytest.approx(golden("losses")[:4].tolist(), rel=TOLERANCE)


def test_stage_1_losses_equal_the_reference(outputs, golden):
    owned, owner = LABELS.unique(return_inverse=True)
    batch = (outputs.trained.projected, outputs.texts[owned], owner, 1.0)
    i2t, t2i = golden("losses")[4:].tolist()
    assert i2t_contrastive_loss(*batch).item() == pytest.approx(i2t, rel=TOLERANCE)
    assert t2i_contrastive_loss(*batch).item() == pytest.approx(t2i, rel=TOLERANCE)
    assert identity_contrastive_loss(*batch).item() == pytest.approx(i2t + t2i, rel=TOLERANCE)


@pytest.mark.slow
def test_exported_features_equal_the_reference(outputs, golden, golden_images, tmp_path):
    model = outputs.checkpoint.embedding_model()
    path = write_onnx(model, tmp_path / "model.onnx")
    assert (
        difference(run_session(open_session(path), golden_images), golden("eval_feature"))
        < TOLERANCE
    )
    cost = network_cost(model.network, model.size_hw)
    assert cost.parameters > 38e6
    check_no_training_layers(path, cost)
