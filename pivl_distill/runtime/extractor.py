"""The Extractor: crops in, unit vectors out, and nothing before the export has proven itself.

On loading, the file must be the one that its manifest describes and must give the vector that was
recorded for the golden crop; a wrong channel order, other means, a damaged file or a runtime that
computes something else are found then and not in production.

Left out on purpose: engines. TensorRT and TensorRT-RTX run them; here ONNX Runtime runs ONNX files.
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
import onnxruntime as ort
from PIL import Image

from pivl_distill.data.images import read_crop, resize_crop
from pivl_distill.data.listing import images_below
from pivl_distill.errors import PivlError
from pivl_distill.runtime.frame_crops import check_image, crop_box
from pivl_distill.runtime.golden_check import check_golden
from pivl_distill.runtime.manifest_reader import (
    Artifact,
    check_file,
    choose_artifact,
    read_manifest,
)
from pivl_distill.runtime.onnx_session import PROVIDERS, ExecutionDevice, has_cuda, open_session


class Extractor:
    """Vectors of crops, by the export in a folder. Safe to use from several threads at once.

    Attributes: `name` of the network, `dim` of its vectors, `size_hw` that crops are resized to,
    the `artifact` chosen and the `device` it runs on.
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
        """Load and check the export in `folder`.

        `precision` "auto" takes the verified file that suits the machine: fp16 before fp32 on CUDA
        devices, fp32 on the CPU. INT8 is taken where it is named, or nothing else is there.
        `threads` limits the CPU threads of one call, `batch_size` the crops that are run, and held
        resized, at a time.

        Raises PivlError, each with its own sentence: no usable file, a file or golden crop that is
        not the one described, a golden vector that was changed or is not reproduced.
        """
        if batch_size < 1:
            raise PivlError(f"Crops are run 1 or more at a time, not batch_size={batch_size}.")
        self.manifest = read_manifest(Path(folder))
        spec = self.manifest.input
        self.name, self.dim, self.size_hw = self.manifest.name, self.manifest.dim, spec.size_hw
        self._mean = np.array(spec.mean, np.float32)
        self._std = np.array(spec.std, np.float32)
        self._batch = min(batch_size, spec.max_batch or batch_size)
        self.device, self.artifact, self._session = self._open(
            device, precision, threads, allow_unverified
        )
        check_golden(self.manifest, self.artifact, self._run)

    def embed(
        self,
        crops: np.ndarray | Sequence[np.ndarray],
        cameras: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Unit vectors float32 [N, dim] of uint8 RGB crops: [N, H, W, 3], or a list of [H, W, 3].

        Sizes may differ. `cameras` [N], counted from 0, are for networks that take cameras. Raises
        PivlError for anything that is no RGB crop.
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
        cameras: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Unit vectors float32 [N, dim] of boxes [N, 4] in a frame, uint8 RGB [H, W, 3].

        Boxes are left, top, right, bottom in pixels; they are clipped to the frame and take every
        pixel they touch. Raises PivlError for a box with no pixel in the frame.
        """
        check_image(frame, "The frame")
        return self.embed([crop_box(frame, box, n) for n, box in enumerate(boxes_xyxy)], cameras)

    def embed_files(
        self, paths: Iterable[str | Path], cameras: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Unit vectors float32 [N, dim] of image files; PivlError names the first unreadable."""
        vectors = []
        for _, vector in self.stream_files([Path(path) for path in paths], cameras):
            if isinstance(vector, PivlError):
                raise vector
            vectors.append(vector)
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)

    def embed_folder(self, folder: str | Path) -> tuple[list[str], np.ndarray]:
        """Names and unit vectors float32 [N, dim] of all images in a folder and below.

        Names are paths relative to `folder`, in order. PivlError names the first unreadable image.
        """
        paths = images_below(Path(folder))
        return [path.relative_to(folder).as_posix() for path in paths], self.embed_files(paths)

    def stream_files(
        self, paths: Sequence[Path], cameras: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[tuple[Path, np.ndarray | PivlError]]:
        """Each image file in order with its unit vector [dim], or why it could not be read.

        One batch is held at a time, however many files there are.
        """
        ids = self._camera_ids(len(paths), cameras)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), self._batch):
                batch = paths[start : start + self._batch]
                results = list(pool.map(self._read, batch))
                read = {n: crop for n, crop in enumerate(results) if isinstance(crop, np.ndarray)}
                if read:
                    taken = ids[start : start + self._batch][list(read)]
                    vectors = self._unit(self._run(np.stack(list(read.values())), taken))
                    for number, vector in zip(read, vectors, strict=True):
                        results[number] = vector
                yield from zip(batch, results, strict=True)

    def threshold(self, far: float = 1e-3) -> float:
        """The cosine above which two vectors are of one person, at a false-accept rate.

        It was measured on the data that the export was verified on, for this artifact's precision.
        Raises PivlError for a rate that was not measured.
        """
        measured = self.artifact.thresholds
        for threshold in measured:
            if math.isclose(threshold.far, far):
                if threshold.cosine is None:
                    raise PivlError(
                        f"{threshold.impostor_pairs:,} impostor pairs are too few to measure a"
                        f" false-accept rate of {far:g}; export again with --data naming more"
                        " people, or ask for a higher rate."
                    )
                return threshold.cosine
        rates = ", ".join(f"{threshold.far:g}" for threshold in measured) or "none"
        raise PivlError(
            f"{self.artifact.file} has no threshold for a false-accept rate of {far:g}; measured"
            f" are: {rates}."
        )

    def same_person(self, a: np.ndarray, b: np.ndarray, far: float = 1e-3) -> np.bool_ | np.ndarray:
        """Whether unit vectors a and b [..., dim] are of one person, at a false-accept rate.

        Shapes broadcast: one vector against a gallery [N, dim] gives [N]. Raises PivlError for a
        rate that was not measured, and for what are not vectors of this network.
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
                f"{self.name} compares vectors [..., {self.dim}] that pair up, not"
                f" {list(a.shape)} with {list(b.shape)}."
            )
        answers: np.bool_ | np.ndarray = (a * b).sum(axis=-1) >= threshold
        return answers

    def _open(
        self, device: str, precision: str, threads: int | None, allow_unverified: bool
    ) -> tuple[ExecutionDevice, Artifact, ort.InferenceSession]:
        """The chosen artifact on the first device that takes it; "auto" falls back to the CPU."""
        if device not in ("auto", *PROVIDERS):
            raise PivlError(f"Unknown device '{device}'; take auto, cpu or cuda.")
        if device == "auto" and has_cuda():
            try:
                return self._open("cuda", precision, threads, allow_unverified)
            except PivlError as error:
                warnings.warn(f"Running on the CPU: {error}", stacklevel=3)
        chosen: ExecutionDevice = "cuda" if device == "cuda" else "cpu"
        artifact = choose_artifact(self.manifest, chosen, precision, allow_unverified)
        path = self.manifest.folder / artifact.file
        check_file(path, artifact.bytes, artifact.sha256)
        return chosen, artifact, open_session(path, threads=threads, providers=[PROVIDERS[chosen]])

    def _read(self, path: Path) -> np.ndarray | PivlError:
        try:
            return read_crop(path, self.size_hw)
        except PivlError as error:
            return error

    def _resized(self, crop: np.ndarray, number: int) -> np.ndarray:
        check_image(crop, f"Crop {number}")
        return resize_crop(Image.fromarray(crop), self.size_hw)

    def _camera_ids(self, count: int, cameras: Sequence[int] | np.ndarray | None) -> np.ndarray:
        """int64 [count]; zeros for a network that takes no cameras."""
        known = self.manifest.input.cameras
        if not known:
            return np.zeros(count, np.int64)
        if cameras is None:
            raise PivlError(
                f"{self.name} takes the camera of each crop, 0 to {known - 1}; give `cameras`, or"
                " export it again with one --camera fixed."
            )
        ids = np.asarray(cameras, np.int64)
        if ids.shape != (count,) or (count and not 0 <= ids.min() <= ids.max() < known):
            raise PivlError(
                f"{self.name} wants one camera of 0 to {known - 1} for each of {count} crops."
            )
        return ids

    def _run(self, crops: np.ndarray, cameras: np.ndarray) -> np.ndarray:
        """Raw features float32 [B, dim] of crops uint8 [B, H, W, 3] of the right size.

        Raises PivlError if the graph does not run, or gives anything else.
        """
        spec = self.manifest.input
        feed = {spec.name: crops if spec.preprocessing_in_graph else self._normalized(crops)}
        try:
            if spec.cameras:
                feed[self._session.get_inputs()[1].name] = cameras
            (features,) = self._session.run([self.manifest.output], feed)
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise PivlError(
                f"{self.artifact.file} cannot be run on {len(crops)} crops as the manifest says:"
                f" {error}. If this is not for lack of memory, take the export from where it was"
                " made."
            ) from error
        if features.shape != (len(crops), self.dim):
            raise PivlError(
                f"{self.artifact.file} gives {list(features.shape)} for {len(crops)} crops, but the"
                f" manifest speaks of {self.dim} values each; take the export from where it was"
                " made."
            )
        return np.asarray(features, np.float32)

    def _normalized(self, crops: np.ndarray) -> np.ndarray:
        """float32 [B, 3, H, W], to the last bit what training and evaluation feed."""
        images = (crops.astype(np.float32) / 255 - self._mean) / self._std
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def _unit(self, features: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise PivlError(
                f"{self.artifact.file} gave a vector without direction (zero or not finite): it"
                " overflowed in low precision or is damaged; take another precision."
            )
        unit: np.ndarray = features / lengths
        return unit
