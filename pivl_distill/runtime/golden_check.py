"""The golden check: an artifact must reproduce here the feature it had when it was exported.

An export contains one image, the golden crop, and for each artifact the feature of that image. The
check finds what a hash cannot: a wrong mean or channel order in the manifest, or a runtime that
computes other values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from pivl_distill.data.images import read_image, resize_crop
from pivl_distill.errors import PivlError
from pivl_distill.runtime.manifest_reader import Artifact, Manifest, vector_sha256
from pivl_distill.storage.limits import MAX_IMAGE_BYTES
from pivl_distill.storage.readers import check_inside, read_bytes

GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""Largest relative error ‖v − golden‖ / ‖golden‖, by precision. Processors differ by 1e-6 in fp32
and 2e-3 in fp16; swapped channels cause 0.1 or more, swapped channel stds alone 7e-3."""


def check_golden(
    manifest: Manifest, artifact: Artifact, run: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Raise PivlError unless `run` reproduces the artifact's golden vector [F].

    `run` maps crops, uint8 [B, H, W, 3], and camera ids, int64 [B], to features [B, F]; the golden
    crop has camera 0. Only an unverified artifact may lack a golden vector.
    """
    golden = artifact.golden_vector
    if golden is None and artifact.status == "unverified":
        return
    if golden is None or vector_sha256(golden) != artifact.golden_vector_sha256:
        what = "is missing from" if golden is None else "was changed in"
        raise PivlError(
            f"The golden vector of {artifact.file} {what} the manifest; copy the export again."
        )
    if golden.shape != (manifest.dim,):
        raise PivlError(
            f"The golden vector of {artifact.file} has {golden.size} values, but the manifest"
            f" declares {manifest.dim} per crop; copy the export again."
        )
    name, digest = manifest.golden_crop
    path = manifest.folder / name
    check_inside(path)
    content = read_bytes(path, MAX_IMAGE_BYTES) if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise PivlError(
            f"{path} is missing or not the golden crop that the manifest describes; copy the export"
            " again."
        )
    crop = resize_crop(read_image(path, content), manifest.input.size_hw)
    (vector,) = run(crop[None], np.zeros(1, np.int64))
    error = float(np.linalg.norm(vector - golden) / np.linalg.norm(golden))
    allowed = GOLDEN_TOLERANCE[artifact.precision]
    if not error <= allowed:  # also catches NaN
        raise PivlError(
            f"{artifact.file} does not reproduce its golden vector on this machine: the relative"
            f" error is {error:.2g}, at most {allowed:g} is allowed. The channel order, mean or std"
            " in the manifest are not those of the network, or this runtime computes other values;"
            " try another precision."
        )
