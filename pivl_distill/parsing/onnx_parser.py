"""Any ONNX segmentation network that a YAML file describes, through ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pivl_distill.config import Device
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

INPUT_TYPES: dict[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class OnnxParser:
    """`kind: onnx`."""

    def __init__(self, name: str, settings: OnnxSettings) -> None:
        assert settings.source is not None
        self.path: Path = settings.source
        self.settings = settings
        self.vocabulary = get_vocabulary(settings.vocabulary)
        self.session = open_session(self.path, providers=providers(settings.device))
        self.input, self.dtype, fixed_batch = self._check_input()
        self.output = self._check_output()
        self.fixed_batch = fixed_batch
        self.batch_size = fixed_batch or settings.batch_size
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self.metadata = {**parser_metadata(name, settings), "sha256": digest}

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """One map per crop; PivlError where the graph gives something else than described."""
        size_hw, resize = self.settings.size_hw, self.settings.resize
        places = [compute_placement(crop.pixels.shape[:2], size_hw, resize) for crop in crops]
        inputs = [
            resize_to_input(crop.pixels, where) for crop, where in zip(crops, places, strict=True)
        ]
        scores = self._run(self._normalised(np.stack(inputs)))
        return [self._map(score, where) for score, where in zip(scores, places, strict=False)]

    def _normalised(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, H, W, 3] → [B, 3, H, W] as the network was trained on."""
        if self.settings.colour_order == "bgr":
            images = images[..., ::-1]
        mean, std = (np.array(v, np.float32) for v in (self.settings.mean, self.settings.std))
        values = (images.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=self.dtype)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Scores [B, P, h, w], or class ids as [B, 1, h, w]."""
        if self.fixed_batch and len(images) < self.fixed_batch:  # the last crops of a data set
            spare = np.zeros((self.fixed_batch - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, spare])
        try:
            (scores,) = self.session.run([self.output], {self.input: images})
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise PivlError(
                f"{self.path} fails on an input of {list(images.shape)}: {error}"
            ) from error
        return self._checked(np.asarray(scores), len(images))

    def _checked(self, scores: np.ndarray, batch: int) -> np.ndarray:
        form, classes = self.settings.output_form, len(self.vocabulary)
        wanted = f"[{batch}, {classes}, h, w]"
        ordered = scores
        if form == "logits_nhwc":
            wanted = f"[{batch}, h, w, {classes}]"
            ordered = scores.transpose(0, 3, 1, 2) if scores.ndim == 4 else scores
        if form == "labels":
            wanted, classes = f"[{batch}, h, w] or [{batch}, 1, h, w]", 1
            ordered = scores[:, None] if scores.ndim == 3 else scores
        if ordered.ndim != 4 or ordered.shape[:2] != (batch, classes):
            raise PivlError(
                f"{self.path} gives '{self.output}' of shape {list(scores.shape)}, but"
                f" {self.vocabulary.name} and output_form {form} mean {wanted}. Correct vocabulary,"
                " output or output_form with --set or in the parser's YAML file."
            )
        if not np.isfinite(ordered).all():
            raise PivlError(
                f"{self.path} gives scores that are not finite; is it a half-precision"
                " file that overflows? Export it in float32."
            )
        return ordered

    def _map(self, scores: np.ndarray, where: Placement) -> PartMap:
        align = self.settings.align_corners
        if self.settings.output_form != "labels":
            logits = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
            return map_from_scores(
                resample_scores(logits, where, align_corners=align), self.settings
            )
        ids = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
        labels = resample_scores(ids, where, align_corners=align, mode="nearest")[0].byte().numpy()
        if (unknown := unknown_value(labels, self.vocabulary)) is not None:
            raise PivlError(
                f"{self.path} gives class {unknown}, but {self.vocabulary.name} ends at"
                f" {len(self.vocabulary) - 1}; name its own vocabulary with --set vocabulary=..."
            )
        return PartMap(labels)

    def _check_input(self) -> tuple[str, type[np.floating], int | None]:
        """Name, type and fixed batch size (None: any) of the graph's input."""
        if len(inputs := self.session.get_inputs()) != 1:
            names = ", ".join(info.name for info in inputs)
            raise PivlError(
                f"{self.path} takes {len(inputs)} inputs ({names}); a parser takes one."
            )
        (info,) = inputs
        if info.type not in INPUT_TYPES:
            raise PivlError(f"{self.path} takes {info.type}; a parser takes float32 or float16.")
        wanted = ("batch", 3, *self.settings.size_hw)
        fits = len(info.shape) == 4 and all(
            not isinstance(size, int) or size == want
            for size, want in zip(info.shape[1:], wanted[1:], strict=True)
        )
        if not fits:
            raise PivlError(
                f"{self.path} takes an input of {info.shape}, but the parser's description says"
                f" {list(wanted)}; correct size_hw with --set or in the YAML file."
            )
        batch = info.shape[0] if isinstance(info.shape[0], int) else None
        return info.name, INPUT_TYPES[info.type], batch

    def _check_output(self) -> str:
        outputs = {info.name: info.shape for info in self.session.get_outputs()}
        listed = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
        chosen = self.settings.output
        if chosen is None and len(outputs) > 1:
            raise PivlError(
                f"{self.path} has several outputs: name one with --set output=...: {listed}."
            )
        if chosen is not None and chosen not in outputs:
            raise PivlError(f"{self.path} has no output '{chosen}'; it has {listed}.")
        return chosen or next(iter(outputs))


def providers(device: Device) -> list[str]:
    """Where ONNX Runtime should run; PivlError when CUDA is asked for and absent."""
    return [CPU] if pick_device(device).type == "cpu" else [CUDA, CPU]
