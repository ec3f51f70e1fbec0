"""Run any ONNX segmentation network that a YAML file describes, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pivl_distill.config import DeviceChoice
from pivl_distill.data.part_maps import PartMap, unknown_value
from pivl_distill.data.vocabulary import get_vocabulary
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput, parser_metadata
from pivl_distill.parsing.resizing import (
    Placement,
    compute_placement,
    map_from_scores,
    resample_scores,
    resize_to_input,
)
from pivl_distill.parsing.settings import OnnxSettings
from pivl_distill.runtime.onnx_session import CPU, CUDA, open_session
from pivl_distill.storage.files import sha256
from pivl_distill.storage.limits import MAX_INPUT_PIXELS, MAX_INPUT_VALUES

INPUT_TYPES: dict[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class OnnxParser:
    """Parser of `kind: onnx`."""

    def __init__(self, name: str, settings: OnnxSettings) -> None:
        """Open the graph; raise PivlError if its input or output contradicts the settings.

        `name` identifies the parser in the metadata.
        """
        assert settings.source is not None
        self.path: Path = settings.source
        self.settings = settings
        self.vocabulary = get_vocabulary(settings.vocabulary)
        self.session = open_session(
            self.path, providers=providers(settings.device), external_data=True
        )
        self.input, self.dtype, fixed_batch = self._check_input()
        self.output = self._check_output()
        self.fixed_batch = fixed_batch
        self.batch_size = fixed_batch or settings.batch_size
        self.metadata = {**parser_metadata(name, settings), "sha256": sha256(self.path)}

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """Return one map per crop; raise PivlError if the output is not as the settings declare."""
        size_hw, resize = self.settings.size_hw, self.settings.resize
        placements = [compute_placement(crop.pixels.shape[:2], size_hw, resize) for crop in crops]
        inputs = [
            resize_to_input(crop.pixels, placement)
            for crop, placement in zip(crops, placements, strict=True)
        ]
        scores = self._run(self._normalised(np.stack(inputs)))
        return [
            self._map(score, placement)
            for score, placement in zip(scores, placements, strict=False)
        ]

    def _normalised(self, images: np.ndarray) -> np.ndarray:
        """Convert uint8 RGB [B, H, W, 3] to the network's normalised input [B, 3, H, W]."""
        if self.settings.colour_order == "bgr":
            images = images[..., ::-1]
        mean, std = (np.array(v, np.float32) for v in (self.settings.mean, self.settings.std))
        values = (images.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=self.dtype)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Return scores [B, P, h, w], or class ids as [B, 1, h, w]."""
        if self.fixed_batch and len(images) < self.fixed_batch:  # the last batch of a data set
            padding = np.zeros((self.fixed_batch - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        try:
            (scores,) = self.session.run([self.output], {self.input: images})
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise PivlError(
                f"{self.path} failed on an input of shape {list(images.shape)}: {error}"
            ) from error
        return self._checked(np.asarray(scores), len(images))

    def _checked(self, scores: np.ndarray, batch: int) -> np.ndarray:
        """Return the output as [B, P, h, w] or [B, 1, h, w]; raise PivlError for other shapes."""
        form, classes = self.settings.output_form, len(self.vocabulary)
        expected = f"[{batch}, {classes}, h, w]"
        ordered = scores
        if form == "logits_nhwc":
            expected = f"[{batch}, h, w, {classes}]"
            ordered = scores.transpose(0, 3, 1, 2) if scores.ndim == 4 else scores
        if form == "labels":
            expected, classes = f"[{batch}, h, w] or [{batch}, 1, h, w]", 1
            ordered = scores[:, None] if scores.ndim == 3 else scores
        if ordered.ndim != 4 or ordered.shape[:2] != (batch, classes):
            raise PivlError(
                f"{self.path} returned '{self.output}' of shape {list(scores.shape)}, but"
                f" {self.vocabulary.name} and output_form {form} require {expected}. Correct"
                " vocabulary, output or output_form with --set or in the parser's YAML file."
            )
        if not np.isfinite(ordered).all():
            raise PivlError(
                f"{self.path} returned scores that are not finite. If it is a half-precision file"
                " that overflows, export it in float32."
            )
        return ordered

    def _map(self, scores: np.ndarray, placement: Placement) -> PartMap:
        """Convert the scores [P, h, w] or class ids [1, h, w] of one crop to its map."""
        align = self.settings.align_corners
        if self.settings.output_form != "labels":
            logits = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
            return map_from_scores(
                resample_scores(logits, placement, align_corners=align), self.settings
            )
        ids = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
        labels = (
            resample_scores(ids, placement, align_corners=align, mode="nearest")[0].byte().numpy()
        )
        if (unknown := unknown_value(labels, self.vocabulary)) is not None:
            raise PivlError(
                f"{self.path} returned class id {unknown}, but {self.vocabulary.name} ends at"
                f" {len(self.vocabulary) - 1}; name its vocabulary with --set vocabulary=..."
            )
        return PartMap(labels)

    def _check_input(self) -> tuple[str, type[np.floating], int | None]:
        """Return name, type and fixed batch size (None: any) of the graph's input."""
        if len(inputs := self.session.get_inputs()) != 1:
            names = ", ".join(info.name for info in inputs)
            raise PivlError(
                f"{self.path} has {len(inputs)} inputs ({names}); a parser must have one."
            )
        (info,) = inputs
        if info.type not in INPUT_TYPES:
            raise PivlError(
                f"{self.path} takes {info.type}; a parser must take float32 or float16."
            )
        expected = ("batch", 3, *self.settings.size_hw)
        fits = len(info.shape) == 4 and all(
            not isinstance(size, int) or size == expected_size
            for size, expected_size in zip(info.shape[1:], expected[1:], strict=True)
        )
        if not fits:
            raise PivlError(
                f"{self.path} takes an input of shape {info.shape}, but the parser's settings"
                f" declare {list(expected)}; correct size_hw with --set or in the YAML file."
            )
        batch = info.shape[0] if isinstance(info.shape[0], int) else None
        height, width = self.settings.size_hw
        values = 3 * (batch or 1) * height * width
        if height * width > MAX_INPUT_PIXELS or values > MAX_INPUT_VALUES:
            raise PivlError(
                f"{self.path} takes {batch or 'any number of'} images of {height}×{width} pixels,"
                f" more than {MAX_INPUT_PIXELS:,} pixels or {MAX_INPUT_VALUES:,} values at a time."
            )
        return info.name, INPUT_TYPES[info.type], batch

    def _check_output(self) -> str:
        """Return the name of the output to use."""
        outputs = {info.name: info.shape for info in self.session.get_outputs()}
        listed = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
        chosen = self.settings.output
        if chosen is None and len(outputs) > 1:
            raise PivlError(
                f"{self.path} has several outputs: choose one with --set output=...: {listed}."
            )
        if chosen is not None and chosen not in outputs:
            raise PivlError(f"{self.path} has no output '{chosen}'; it has {listed}.")
        return chosen or next(iter(outputs))


def providers(device: DeviceChoice) -> list[str]:
    """Return ONNX Runtime's providers; raise PivlError if CUDA is requested but missing."""
    return [CPU] if pick_device(device).type == "cpu" else [CUDA, CPU]
