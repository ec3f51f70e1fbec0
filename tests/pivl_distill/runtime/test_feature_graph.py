"""Normalisation is that of training, and graphs that contradict their manifest are rejected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manifest_edits import change_artifact, change_manifest
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.runtime import Extractor
from pivl_distill.runtime.feature_graph import normalise


def test_normalisation_is_bit_identical_to_training(extractor, crops):
    tensors = normalize_crops(torch.from_numpy(crops), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_array_equal(
        normalise(crops, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), tensors.numpy()
    )


@pytest.mark.parametrize(
    ("section", "field", "value", "sentence"),
    [
        ("input", "size_hw", [32, 64], "failed on a batch of size 1, fed as the manifest"),
        ("input", "name", "pictures", "failed on a batch of size 1, fed as the manifest"),
        ("input", "cameras", 3, "failed on a batch of size 1, fed as the manifest"),
        ("output", "name", "vectors", "failed on a batch of size 1, fed as the manifest"),
        ("output", "dim", 25, "has 24 values, but the manifest declares 25"),
    ],
)
def test_manifest_of_another_graph_is_rejected(deployed, section, field, value, sentence):
    change_manifest(deployed, lambda manifest: manifest[section].update({field: value}))
    with pytest.raises(PivlError, match=sentence):
        Extractor(deployed)


def test_features_of_wrong_length_are_rejected(deployed, crops):
    """Also for an unverified file, which has no golden vector."""
    change_manifest(deployed, lambda manifest: manifest["output"].update(dim=25))
    change_artifact(deployed, status="unverified", golden_vector=None, golden_vector_sha256=None)
    extractor = Extractor(deployed, precision="fp32", allow_unverified=True)
    with pytest.raises(PivlError, match=r"of shape \[2, 24\] for 2 crops, .* declares 25 values"):
        extractor.embed(crops[:2])
