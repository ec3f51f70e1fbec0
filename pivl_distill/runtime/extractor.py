"""Extract person features with an exported network: crops in, unit vectors out.

Loading an export verifies it: the file must have the SHA-256 of its manifest, and must reproduce on
this machine the feature that was recorded for the golden crop. A truncated copy, swapped channels,
a wrong mean or std, or a runtime that computes other values is found before the first real crop.

ONNX Runtime runs the ONNX files, OpenVINO the IRs of a folder made for it. Left out on purpose:
TensorRT engines; run them with TensorRT.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pivl_distill.data.images import read_crop, resize_crop
from pivl_distill.data.listing import find_images
from pivl_distill.errors import PivlError
from pivl_distill.runtime.feature_graph import FeatureGraph
from pivl_distill.runtime.frame_crops import check_crop, check_image, crop_box
from pivl_distill.runtime.golden_check import check_golden
from pivl_distill.runtime.manifest_reader import Artifact, choose_artifact, read_manifest
from pivl_distill.runtime.onnx_session import PROVIDERS, ExecutionDevice, has_cuda
from pivl_distill.runtime.open_artifact import Session, open_artifact
from pivl_distill.vectors.files import load_comparable

CameraIds = Sequence[int] | np.ndarray
"""[N] camera ids, counted from 0, one per crop."""


class Extractor:
    """Compute person features with an export; compare them by cosine or a measured threshold.

        extractor = Extractor("deploy/")
        features = extractor.embed_boxes(frame, boxes)  # float32 [N, F], length one
        similarities = features @ gallery.T  # cosine, −1 to 1
        same = extractor.same_person(features[0], gallery, far=1e-3)  # bool [G]

    Images are uint8 RGB; reverse the channels of OpenCV's BGR (`frame[..., ::-1]`). Crops of any
    size are resized and normalised here, exactly as in training: do not preprocess them.

    Features are float32 [N, F] and L2-normalised, so their dot product is the cosine similarity.
    They do not depend on how crops are batched, up to float32 rounding.

    Thread safety: one Extractor may be used by several threads at once. Methods change no state.

    Errors: every method raises `pivl_distill.errors.PivlError`, with a message that names the crop,
    box or file at fault and what to do.

    Attributes:
        name: name of the network.
        dim: length F of a feature.
        size_hw: input height and width in pixels, to which crops are resized.
        space: the vector space of the features; None for exports of earlier versions.
        manifest: what `manifest.json` declares.
        artifact: the file that runs, with its precision and thresholds.
        device: "cpu" or "cuda", where it runs.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int | None = None,
        batch_size: int = 32,
        allow_unverified: bool = False,
    ) -> None:
        """Load the export in `folder` and verify it on this machine.

        Args:
            folder: an export folder, which holds `manifest.json`.
            precision: "fp32", "fp16", "int8" or "auto". "auto" prefers fp16 to fp32 on CUDA and
                fp32 to fp16 on the CPU; it uses INT8 only if there is nothing else.
            device: "auto" uses CUDA where ONNX Runtime can and otherwise warns and uses the CPU.
                "cuda" raises instead of falling back.
            threads: CPU threads per call; None leaves the number to ONNX Runtime.
            batch_size: most crops per run of the network. Resized crops of one batch are in memory
                at a time, so this bounds memory. A smaller maximum of the export takes precedence.
            allow_unverified: also accept a file that the export could not verify. A file that
                failed verification is always refused.

        Raises:
            PivlError: the folder holds no usable file; a file is missing, truncated or changed;
                the golden crop or its recorded feature was changed; the file does not reproduce
                that feature here; or the device is not available.
        """
        if batch_size < 1:
            raise PivlError(f"batch_size must be 1 or more, not {batch_size}.")
        self.manifest = read_manifest(Path(folder))
        spec = self.manifest.input
        self.name, self.dim, self.size_hw = self.manifest.name, self.manifest.dim, spec.size_hw
        self.space = self.manifest.space
        self._batch = min(batch_size, spec.max_batch or batch_size)
        self.device, self.artifact, session = self._open(
            device, precision, threads, allow_unverified
        )
        self._run = FeatureGraph(session, self.artifact, self.manifest).run
        check_golden(self.manifest, self.artifact, self._run)

    def embed(
        self, crops: np.ndarray | Sequence[np.ndarray], cameras: CameraIds | None = None
    ) -> np.ndarray:
        """Return unit features, float32 [N, F], of uint8 RGB crops.

        `crops` is an array [N, H, W, 3] or a list of arrays [H, W, 3] of any sizes; none gives
        [0, F]. `cameras` [N] is required by networks with camera embeddings and ignored by others.
        Raises PivlError, with the crop's number, for anything that is not a uint8 RGB image of at
        most 2²⁵ pixels. Besides the crops, one batch of resized ones is in memory.
        """
        ids = self._camera_ids(len(crops), cameras)
        vectors = np.empty((len(crops), self.dim), np.float32)
        for start in range(0, len(crops), self._batch):
            rows = slice(start, start + self._batch)
            numbered = enumerate(crops[rows], start)
            resized = np.stack([self._resized(crop, number) for number, crop in numbered])
            vectors[rows] = self._unit(self._run(resized, ids[rows]))
        return vectors

    def embed_boxes(
        self,
        frame: np.ndarray,
        boxes_xyxy: np.ndarray | Sequence[Sequence[float]],
        cameras: CameraIds | None = None,
    ) -> np.ndarray:
        """Return unit features, float32 [N, F], of boxes in a frame, uint8 RGB [H, W, 3].

        Boxes [N, 4] are (left, top, right, bottom) in pixels, right and bottom exclusive. Fractions
        are rounded outwards, and boxes are clipped to the frame. `cameras` as in `embed`. Raises
        PivlError, with the box's number, for a box that is malformed or outside the frame.
        """
        check_image(frame, "The frame")
        return self.embed([crop_box(frame, box, n) for n, box in enumerate(boxes_xyxy)], cameras)

    def embed_files(
        self, paths: Iterable[str | Path], cameras: CameraIds | None = None
    ) -> np.ndarray:
        """Return unit features, float32 [N, F], of image files, in their order.

        Raises PivlError, with the path, at the first image that cannot be read; `stream_files`
        continues after it.
        """
        vectors = []
        for _, vector in self.stream_files([Path(path) for path in paths], cameras):
            if isinstance(vector, PivlError):
                raise vector
            vectors.append(vector)
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)

    def embed_folder(self, folder: str | Path) -> tuple[list[str], np.ndarray]:
        """Return names and unit features, float32 [N, F], of all images in a folder and below it.

        Names are paths relative to `folder`, sorted. Raises PivlError at the first image that
        cannot be read.
        """
        paths = find_images(Path(folder))
        return [path.relative_to(folder).as_posix() for path in paths], self.embed_files(paths)

    def stream_files(
        self, paths: Sequence[Path], cameras: CameraIds | None = None
    ) -> Iterator[tuple[Path, np.ndarray | PivlError]]:
        """Yield each path with its unit feature, float32 [F], or the error of reading it.

        Order is kept. Only one batch is in memory at a time, for any number of files. Images are
        decoded in up to 8 threads.
        """
        ids = self._camera_ids(len(paths), cameras)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), self._batch):
                batch = paths[start : start + self._batch]
                results = list(pool.map(self._read, batch))
                read = {n: crop for n, crop in enumerate(results) if isinstance(crop, np.ndarray)}
                if read:
                    batch_ids = ids[start : start + self._batch][list(read)]
                    vectors = self._unit(self._run(np.stack(list(read.values())), batch_ids))
                    for number, vector in zip(read, vectors, strict=True):
                        results[number] = vector
                yield from zip(batch, results, strict=True)

    def load_vectors(self, path: str | Path) -> tuple[list[str], np.ndarray]:
        """Return names and features, float32 [N, F], of a file that `pivl-distill embed` wrote.

        Arrays do not tell which network they are of; a file does. Raises PivlError if its vectors
        are of another network, unless this one was trained for that gallery.
        """
        return load_comparable(Path(path), self.space, self.dim, self.name)

    def threshold(self, far: float = 1e-3) -> float:
        """Return the cosine from which a pair counts as one person, at a false-accept rate.

        `far` is the share of pairs of different people that are accepted. The threshold was
        measured on the data that verified the export, for this artifact's precision; other cameras
        and people have other thresholds. Raises PivlError for a rate that was not measured.
        """
        measured = self.artifact.thresholds
        for threshold in measured:
            if math.isclose(threshold.far, far):
                if threshold.cosine is None:
                    raise PivlError(
                        f"{threshold.impostor_pairs:,} impostor pairs are too few to measure a"
                        f" false-accept rate of {far:g}; export again with more people in --data,"
                        " or use a higher rate."
                    )
                return threshold.cosine
        rates = ", ".join(f"{threshold.far:g}" for threshold in measured) or "none"
        raise PivlError(
            f"{self.artifact.file} has no threshold for a false-accept rate of {far:g};"
            f" measured rates: {rates}."
        )

    def same_person(self, a: np.ndarray, b: np.ndarray, far: float = 1e-3) -> np.bool_ | np.ndarray:
        """Return whether the cosine of unit features reaches `threshold(far)`: bool [...].

        `a` and `b` are [..., F] and broadcast: one feature [F] against a gallery [G, F] gives [G].
        Raises PivlError for a rate that was not measured and for shapes that do not broadcast or do
        not end in F.
        """
        threshold = self.threshold(far)
        a, b = np.asarray(a), np.asarray(b)
        try:
            np.broadcast_shapes(a.shape, b.shape)
            fit = a.shape[-1:] == b.shape[-1:] == (self.dim,)
        except ValueError:
            fit = False
        if not fit:
            raise PivlError(
                f"{self.name} compares features [..., {self.dim}] whose shapes broadcast, not"
                f" {list(a.shape)} and {list(b.shape)}."
            )
        answers: np.bool_ | np.ndarray = (a * b).sum(axis=-1) >= threshold
        return answers

    def _open(
        self, device: str, precision: str, threads: int | None, allow_unverified: bool
    ) -> tuple[ExecutionDevice, Artifact, Session]:
        """Open the chosen artifact; "auto" falls back to the CPU with a warning."""
        if device not in ("auto", *PROVIDERS):
            raise PivlError(f"Unknown device '{device}'; use auto, cpu or cuda.")
        if device == "auto" and has_cuda():
            try:
                return self._open("cuda", precision, threads, allow_unverified)
            except PivlError as error:
                warnings.warn(f"Running on the CPU: {error}", stacklevel=3)
        chosen: ExecutionDevice = "cuda" if device == "cuda" else "cpu"
        artifact = choose_artifact(self.manifest, chosen, precision, allow_unverified)
        return chosen, artifact, open_artifact(self.manifest, artifact, chosen, threads)

    def _read(self, path: Path) -> np.ndarray | PivlError:
        try:
            return read_crop(path, self.size_hw)
        except PivlError as error:
            return error

    def _resized(self, crop: np.ndarray, number: int) -> np.ndarray:
        check_crop(crop, f"Crop {number}")
        return resize_crop(Image.fromarray(crop), self.size_hw)

    def _camera_ids(self, count: int, cameras: CameraIds | None) -> np.ndarray:
        """Return int64 [count]; zeros for a network without camera embeddings."""
        known = self.manifest.input.cameras
        if not known:
            return np.zeros(count, np.int64)
        if cameras is None:
            raise PivlError(
                f"{self.name} needs the camera id of each crop, 0 to {known - 1}: pass `cameras`,"
                " or export it again with a fixed --camera."
            )
        ids = np.asarray(cameras, np.int64)
        if ids.shape != (count,) or (count and not 0 <= ids.min() <= ids.max() < known):
            raise PivlError(
                f"{self.name} needs one camera id of 0 to {known - 1} for each of {count} crops."
            )
        return ids

    def _unit(self, features: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise PivlError(
                f"{self.artifact.file} returned a feature that cannot be normalised (zero or not"
                " finite): low precision overflowed or the file is damaged; use another precision."
            )
        unit: np.ndarray = features / lengths
        return unit
