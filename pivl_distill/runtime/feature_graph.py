"""Run an exported graph on a batch of crops: normalise, feed, check, return raw features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivl_distill.errors import PivlError, one_line
from pivl_distill.runtime.manifest_reader import Artifact, Manifest
from pivl_distill.runtime.open_artifact import Session


@dataclass(frozen=True)
class FeatureGraph:
    """An open network, with the manifest that describes its inputs and output."""

    session: Session
    artifact: Artifact
    manifest: Manifest

    def run(self, crops: np.ndarray, cameras: np.ndarray) -> np.ndarray:
        """Return the features, float32 [B, F], not normalised, of a batch of crops.

        `crops` are uint8 RGB [B, H, W, 3] of the network's input size, `cameras` int64 [B] camera
        ids from 0; a network without camera embeddings ignores them. Raises PivlError if the graph
        fails, or if its output does not have the shape that the manifest declares.
        """
        spec, file = self.manifest.input, self.artifact.file
        images = crops if spec.preprocessing_in_graph else normalise(crops, spec.mean, spec.std)
        feed = {spec.name: images}
        try:
            if spec.cameras:
                feed[self.session.get_inputs()[1].name] = cameras
            (features,) = self.session.run([self.manifest.output], feed)
        except Exception as error:  # those of the libraries share no public base class
            raise PivlError(
                f"{file} failed on a batch of size {len(crops)}, fed as the manifest describes:"
                f" {one_line(error)}. Unless memory ran out, the file and its manifest do not"
                " belong together: copy the export again."
            ) from error
        if features.shape != (len(crops), self.manifest.dim):
            raise PivlError(
                f"{file} returned features of shape {list(features.shape)} for {len(crops)} crops,"
                f" but the manifest declares {self.manifest.dim} values per crop; copy the export"
                " again."
            )
        return np.asarray(features, np.float32)


def normalise(crops: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Convert uint8 RGB crops [B, H, W, 3] to float32 [B, 3, H, W]: (x / 255 − mean) / std.

    `mean` and `std` are per channel, in RGB order, for pixels in 0..1. The result is bit-identical
    to the preprocessing of training and evaluation.
    """
    centred = crops.astype(np.float32) / 255 - np.array(mean, np.float32)
    images = centred / np.array(std, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
