"""The golden vector: what an artifact gave for one picture when it was exported, it must give here.

It finds what no hash can: means or channels that were swapped, a runtime that computes something
else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pivl_distill.data.images import read_crop
from pivl_distill.errors import PivlError
from pivl_distill.runtime.manifest_reader import Artifact, Manifest, vector_sha256
from pivl_distill.storage.files import sha256

GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""How far the golden vector may be off, relative to its length. Processors differ by 1e-6 in fp32,
2e-3 in fp16; swapped channels are off by 0.1 and more, channels' deviations alone by 7e-3."""


def check_golden(
    manifest: Manifest, artifact: Artifact, run: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """PivlError unless `run` gives the artifact's recorded vector for the golden crop.

    `run` takes crops uint8 [B, H, W, 3] and cameras int64 [B] and gives features [B, dim]. Only an
    unverified artifact may have no golden vector.
    """
    golden = artifact.golden_vector
    if golden is None and artifact.status == "unverified":
        return
    if golden is None or vector_sha256(golden) != artifact.golden_vector_sha256:
        what = "is missing from" if golden is None else "was changed in"
        raise PivlError(
            f"The golden vector of {artifact.file} {what} the manifest; take the export from where"
            " it was made."
        )
    if golden.shape != (manifest.dim,):
        raise PivlError(
            f"The golden vector of {artifact.file} has {golden.size} values, but the manifest"
            f" speaks of {manifest.dim}; take the export from where it was made."
        )
    name, digest = manifest.golden_crop
    path = manifest.folder / name
    if not path.is_file() or sha256(path) != digest:
        raise PivlError(
            f"{path} is missing or not the golden crop that the manifest describes; take the"
            " export from where it was made."
        )
    crop = read_crop(path, manifest.input.size_hw)
    (vector,) = run(crop[None], np.zeros(1, np.int64))
    off = float(np.linalg.norm(vector - golden) / np.linalg.norm(golden))
    if not off <= GOLDEN_TOLERANCE[artifact.precision]:  # NaN is off too
        raise PivlError(
            f"{artifact.file} does not give its golden vector here: off by {off:.2g} of its"
            f" length, {GOLDEN_TOLERANCE[artifact.precision]:g} is allowed. Channel order, mean"
            " or deviation in the manifest are not those of the network, or this runtime"
            " computes something else; try another precision."
        )
