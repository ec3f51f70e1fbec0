"""Exports that do not reproduce their golden vector are rejected."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from manifest_edits import change_artifact, change_manifest
from pivl_distill.errors import PivlError
from pivl_distill.runtime import Extractor
from pivl_distill.storage.files import sha256


def test_one_changed_bit_of_the_golden_vector_is_rejected(deployed):
    manifest = json.loads((deployed / "manifest.json").read_text())
    vector = np.array(manifest["artifacts"][0]["golden_vector"], np.float32)
    vector.view(np.uint32)[10] ^= 1
    change_artifact(deployed, golden_vector=vector.tolist())
    with pytest.raises(PivlError, match=r"golden vector of model\.onnx was changed"):
        Extractor(deployed)


def test_unreproduced_golden_vector_is_rejected(deployed):
    manifest = json.loads((deployed / "manifest.json").read_text())
    vector = np.array(manifest["artifacts"][0]["golden_vector"], np.float32)[::-1].copy()
    digest = hashlib.sha256(vector.tobytes()).hexdigest()
    change_artifact(deployed, golden_vector=vector.tolist(), golden_vector_sha256=digest)
    with pytest.raises(PivlError, match="does not reproduce its golden vector"):
        Extractor(deployed)


def test_verified_file_without_golden_vector_is_rejected(deployed):
    """Otherwise a manifest without it would hide swapped means."""

    def swap(manifest):
        manifest["input"].update({k: manifest["input"][k][::-1] for k in ("mean", "std")})

    change_manifest(deployed, swap)
    change_artifact(deployed, golden_vector=None, golden_vector_sha256=None)
    with pytest.raises(PivlError, match=r"golden vector of model\.onnx is missing"):
        Extractor(deployed)


def test_golden_vector_of_wrong_length_is_rejected(deployed):
    vector = np.ones(23, np.float32)
    digest = hashlib.sha256(vector.tobytes()).hexdigest()
    change_artifact(deployed, golden_vector=vector.tolist(), golden_vector_sha256=digest)
    with pytest.raises(PivlError, match=r"has 23 values, but the manifest declares 24"):
        Extractor(deployed)


def test_swapped_channels_are_rejected(deployed):
    """In the mean and std of the manifest, or in a golden crop saved as BGR."""
    golden = deployed / "golden.png"
    good = golden.read_bytes()
    Image.fromarray(np.array(Image.open(golden))[..., ::-1].copy()).save(golden)
    with pytest.raises(PivlError, match="not the golden crop"):
        Extractor(deployed)
    digest = sha256(golden)
    change_manifest(deployed, lambda manifest: manifest["golden_crop"].update(sha256=digest))
    with pytest.raises(PivlError, match="channel order"):
        Extractor(deployed)
    golden.write_bytes(good)
    digest = sha256(golden)

    def swap(manifest):
        manifest["golden_crop"].update(sha256=digest)
        manifest["input"].update({k: manifest["input"][k][::-1] for k in ("mean", "std")})

    with pytest.raises(PivlError, match="channel order"):
        Extractor(change_manifest(deployed, swap))


def test_missing_golden_crop_is_rejected(deployed):
    (deployed / "golden.png").unlink()
    with pytest.raises(PivlError, match="is missing or not the golden crop"):
        Extractor(deployed)
