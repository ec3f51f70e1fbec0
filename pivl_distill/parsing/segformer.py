"""SegFormer (Xie et al., NeurIPS 2021) from the Hugging Face hub or a folder.

`transformers`, an optional dependency of a few hundred megabytes, is imported only here. Weights
are read only from safetensors and must be complete, because `transformers` would initialise missing
weights at random.
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
    """Parser of `kind: segformer`."""

    def __init__(self, name: str, settings: SegformerSettings) -> None:
        """Load the model; raise PivlError if its classes are not those of the vocabulary.

        `name` identifies the parser in the metadata.
        """
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
        """Return one map per crop, in the crop's size."""
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
    """Load model and image processor; raise PivlError if library, files or weights are missing."""
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
    except Exception as error:  # transformers, safetensors and torch each have their own
        raise PivlError(
            f"Cannot load a segmentation model from '{source}': {error} Name a hub id, or a folder"
            " with config.json, model.safetensors and preprocessor_config.json."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise PivlError(
            f"'{source}' is not a trained segmentation model: {len(missing)} weights are missing,"
            f" such as {missing[0]}."
        )
    return model, processor


def check_labels(source: str, id2label: dict[int, str], vocabulary: Vocabulary) -> None:
    """Raise PivlError if the model's classes differ from the vocabulary in number or name.

    Placeholder names of transformers (LABEL_0) are not compared.
    """
    if len(id2label) != len(vocabulary):
        raise PivlError(
            f"'{source}' has {len(id2label)} classes, but {vocabulary.name} has"
            f" {len(vocabulary)}; name the model's vocabulary with --set vocabulary=..."
        )
    for number, label in enumerate(vocabulary.labels):
        found = id2label[number]
        if not found.startswith("LABEL_") and _plain(found) != _plain(label):
            raise PivlError(
                f"'{source}' names class {number} '{found}', but {vocabulary.name} names it"
                f" '{label}'; name the model's vocabulary with --set vocabulary=..."
            )


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of all weights, sorted by name; independent of the source."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(label: str) -> str:
    """Return lower-case letters and digits only, to compare spellings."""
    return "".join(character for character in label.lower() if character.isalnum())
