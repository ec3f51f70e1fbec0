"""Exact crops decide about the network, images about the consumer's own crop and resize."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from export.consumers import measure
from export.consumers.base import NetworkFile, Runner
from export.consumers.graphs import NORMALISED
from export.consumers.measure import framed, prepare_trial
from export.verification import measure_thresholds
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.evaluation import QueryGalleryFeatures

FILE = NetworkFile("reid.onnx", "fp32")


@pytest.fixture
def right(exported_folder, onnx_runner) -> Runner:
    """What our own Extractor does."""
    return onnx_runner(exported_folder.path / "model.onnx", NORMALISED)


def test_a_runner_like_ours_is_verified(trial, right):
    run = trial.run(FILE, right)
    assert (run.status, run.reason, run.by) == ("verified", None, "Pillow 1")
    assert run.exact.min_cosine > 0.999999
    assert run.as_used.min_cosine > 0.99999
    assert run.retrieval.exported_mAP == run.retrieval.checkpoint_mAP == trial.reference.result.mAP
    features = trial.reference.features
    assert run.thresholds == measure_thresholds(trial.reference.test, features)


def test_swapped_channels_fail_by_the_exact_crops(trial, exported_folder, onnx_runner):
    bgr = replace(NORMALISED, colour="BGR")
    run = trial.run(FILE, onnx_runner(exported_folder.path / "model.onnx", bgr))
    assert run.status == "failed"
    assert run.reason.startswith("Over budget: minimum cosine")
    assert run.as_used is None


def test_a_bad_crop_fails_although_the_network_is_right(trial, right):
    def other_vectors_in_frames(frames):
        return np.roll(right.embed(frames), 0 if frames[0].box[0] == 0 else 5, axis=1)

    run = trial.run(FILE, replace(right, embed=other_vectors_in_frames))
    assert run.exact.min_cosine > 0.999999
    assert run.status == "failed"
    assert run.reason.startswith("Its own crop and resize change too much:")
    assert run.as_used.mean_cosine < measure.LEAST_MEAN_COSINE
    assert run.thresholds


def test_a_reason_against_verification_stays(trial, right):
    run = trial.run(FILE, replace(right, unverified="an imitation"))
    assert (run.status, run.reason) == ("unverified", "an imitation")
    assert run.retrieval.exported_mAP == trial.reference.result.mAP


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda vectors: vectors[:, :7], "array [13, 7] for 13 people instead of 24 values"),
        (lambda vectors: vectors[:-1], "array [12, 24] for 13 people"),
        (lambda vectors: vectors * 0, "zero or not finite"),
        (lambda vectors: vectors + np.nan, "zero or not finite"),
    ],
)
def test_anything_but_one_vector_per_person_fails(trial, right, change, reason):
    run = trial.run(FILE, replace(right, embed=lambda frames: change(right.embed(frames))))
    assert run.status == "failed"
    assert reason in run.reason


def test_an_error_of_the_consumer_is_the_reason(trial, right):
    def refuse(_frames):
        raise PivlError("It is out of memory.")

    run = trial.run(FILE, replace(right, embed=refuse))
    assert (run.status, run.reason) == ("failed", "It is out of memory.")


def test_unscored_crops_are_compared_by_cosine_alone(
    exported_folder, image_test, images, onnx_runner
):
    unscored = prepare_trial(exported_folder.path, replace(image_test, scored=False), *images)
    run = unscored.run(FILE, onnx_runner(exported_folder.path / "model.onnx", NORMALISED))
    assert run.status == "verified"
    assert run.retrieval is None
    assert run.thresholds == ()


def test_a_frame_continues_the_edge_of_its_image():
    image = np.random.default_rng(0).integers(0, 256, (60, 20, 3), np.uint8)
    pixels, (left, top, right, bottom) = framed(image)
    assert (pixels[top:bottom, left:right] == image).all()
    assert left == top == 8 + 3
    assert pixels.shape == (60 + 22, 20 + 22, 3)
    assert (pixels[0, 0] == image[0, 0]).all()
    assert (pixels[-1, left:right] == image[-1]).all()


def test_the_reference_has_unit_features_in_the_order_of_the_images(trial, images):
    features = trial.reference.features
    assert isinstance(features, QueryGalleryFeatures)
    np.testing.assert_allclose(np.linalg.norm(features.gallery, axis=1), 1, atol=1e-6)
    assert len(features.query) == len(trial.query) == len(images[0])
    assert np.linalg.norm(trial.golden_feature) == pytest.approx(1)


def test_another_golden_crop_is_refused(exported_folder, image_test, images):
    Image.new("RGB", (32, 64)).save(exported_folder.path / "golden.png")
    with pytest.raises(PivlError, match="not the golden crop of the manifest"):
        prepare_trial(exported_folder.path, image_test, *images)
