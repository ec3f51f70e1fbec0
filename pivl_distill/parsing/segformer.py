"""SegFormer (Xie et al., NeurIPS 2021) from the Hugging Face hub or a folder.

`transformers` is imported only here, for it is an extra of a few hundred megabytes of its own.
Weights are read from safetensors alone and must be complete: `transformers` would fill what is
missing with random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.vocabulary import Vocabulary, get_vocabulary
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput, parser_metadata
from pivl_distill.parsing.resizing import compute_placement, map_from_scores, resample_scores
from pivl_distill.parsing.settings import SegformerSettings


class SegformerParser:
    """`kind: segformer`."""

    def __init__(self, name: str, settings: SegformerSettings) -> None:
        assert settings.source is not None
        self.source = settings.source
        self.settings = settings
        self.vocabulary = get_vocabulary(settings.vocabulary)
        self.batch_size = settings.batch_size
        self.device = pick_device(settings.device)
        self.model, self.processor = load_segformer(self.source)
        check_labels(self.source, self.model.config.id2label, self.vocabulary)
        self.model.eval().to(self.device)
        self.metadata = {**parser_metadata(name, settings), "sha256": weights_sha256(self.model)}

    @torch.inference_mode()
    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """One map per crop."""
        images = [crop.pixels for crop in crops]
        inputs = self.processor(
            images=images, return_tensors="pt", input_data_format="channels_last"
        )["pixel_values"]
        logits = self.model(pixel_values=inputs.to(self.device)).logits
        size_hw = (inputs.shape[2], inputs.shape[3])
        return [
            map_from_scores(
                resample_scores(scores, compute_placement(image.shape[:2], size_hw, "stretch")),
                self.settings,
            )
            for scores, image in zip(logits, images, strict=True)
        ]


def load_segformer(source: str) -> tuple[Any, Any]:
    """Network and preprocessing; PivlError when the library, files or weights are missing."""
    try:
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    except ImportError as error:
        raise PivlError(
            "SegFormer parsers need transformers: pip install 'pivl-distill[parse]'."
        ) from error
    try:
        model, report = AutoModelForSemanticSegmentation.from_pretrained(
            source, use_safetensors=True, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise PivlError(
            f"Cannot load a segmentation model from '{source}': {error} Name a hub id, or a folder"
            " with config.json, model.safetensors and preprocessor_config.json."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise PivlError(
            f"'{source}' is no trained segmentation model: it lacks {len(missing)} weights, such as"
            f" {missing[0]}."
        )
    return model, processor


def check_labels(source: str, id2label: dict[int, str], vocabulary: Vocabulary) -> None:
    """PivlError where the model's classes are not those of the vocabulary, by number or by name.

    Names that transformers made up (LABEL_0) are not compared.
    """
    if len(id2label) != len(vocabulary):
        raise PivlError(
            f"'{source}' tells {len(id2label)} classes apart, but {vocabulary.name} has"
            f" {len(vocabulary)}; name the model's vocabulary with --set vocabulary=..."
        )
    for number, label in enumerate(vocabulary.labels):
        found = id2label[number]
        if not found.startswith("LABEL_") and _plain(found) != _plain(label):
            raise PivlError(
                f"'{source}' calls class {number} '{found}', but {vocabulary.name} calls it"
                f" '{label}'; name the model's vocabulary with --set vocabulary=..."
            )


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 (hex) of all weights in the order of their names, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(label: str) -> str:
    return "".join(letter for letter in label.lower() if letter.isalnum())
