"""Settings of `pivl-distill teach`: CLIP, prompts, stage 1."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pivl_distill.config.base import Device, Precision, Settings
from pivl_distill.config.data import DataSettings
from pivl_distill.config.stage2 import LossSettings, Stage2Settings


class ClipSettings(Settings):
    """The CLIP whose texts teach."""

    name: str = Field("tiny_rn", description="embedded tiny_rn, tiny_vit, or an open_clip model")
    weights: str = Field(
        "embedded",
        description="embedded, an open_clip tag, hf-hub:ID, a file, or none; a CLIP-ReID .pth gives"
        " its image encoder to the CLIP of `base`",
    )
    base: str = Field(
        "openai", description="weights of the words and logit scale that a CLIP-ReID file lacks"
    )
    stride_px: PositiveInt | None = Field(
        None, description="step between a ViT's patches; 12 overlaps them (OLP), null does not"
    )
    sie_coefficient: float = Field(
        0.0, ge=0, description="weight of a ViT's camera vectors (SIE), CLIP-ReID 1; 0 for none"
    )
    pixels: Literal["reid", "clip"] = Field(
        "reid",
        description="mean and deviation of pixels: CLIP-ReID's (ImageNet's for a ResNet, 0.5 for a"
        " ViT), or those CLIP was trained with",
    )


class PromptSettings(Settings):
    """Words around the learned tokens (§3.1, §3.3)."""

    identity: str = Field("a photo of a {X} person", description="identity prompt T_D, Eq. 1")
    part: str = Field(
        "a photo of a {X} person {part}", description="part prompt, Eq. 6; slots in any order"
    )
    label: str = Field("a photo of a person {part}", description="part prompt without identity")
    part_words: Literal["plain", "raw"] = Field(
        "plain", description="{part}: in plain words, or the parser's label, paper Upper-clothes"
    )
    learned_tokens: PositiveInt = Field(4, description="M; CLIP-ReID uses 4")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the first tokens")

    @field_validator("identity", "part", "label")
    @classmethod
    def _check_slots(cls, template: str, info: ValidationInfo) -> str:
        slots = {"identity": ["{X}"], "part": ["{X}", "{part}"], "label": ["{part}"]}
        wanted = slots[str(info.field_name)]
        if sorted(re.findall(r"{\w*}|[{}]", template)) != wanted:
            raise ValueError(f"must hold {' and '.join(wanted)} once and no other braces")
        return template


class TuningSettings(Settings):
    """Stage 1: prompt tuning of the learned tokens only (§3.3, §4.2)."""

    identity_epochs: PositiveInt = Field(
        60, description="epochs of Eq. 2, paper 60; CLIP-ReID's ViT 120"
    )
    part_epochs: int = Field(20, ge=0, description="epochs of Eq. 8 after them, paper 20")
    part_epochs_train: Literal["both", "part"] = Field(
        "both", description="what the part epochs minimise: the sum of Eq. 8, or L_part alone"
    )
    batches: Literal["pk", "shuffle"] = Field(
        "pk", description="P×K as the paper, or a permutation in batches of P·K as CLIP-ReID"
    )
    identities_per_batch: PositiveInt = Field(16, description="P of P×K")
    crops_per_identity: PositiveInt = Field(4, description="K of P×K")
    learning_rate: float = Field(
        2e-2, gt=0, description="Adam; paper 3.5e-4, the tiny text encoder wants more"
    )
    min_learning_rate: float = Field(4e-4, ge=0, description="end of the cosine")
    weight_decay: float = Field(0.0, ge=0, description="of Adam; CLIP-ReID 1e-4")
    warmup_epochs: float = Field(2.0, ge=0, description="linear warm-up, in epochs")
    schedule: Literal["smooth", "per_epoch"] = Field(
        "smooth", description="cosine step by step, or one rate per epoch as CLIP-ReID's"
    )
    warmup_rate: float = Field(1e-5, ge=0, description="start of the warm-up, per_epoch only")
    restart: bool = Field(
        False, description="a second cosine for the part epochs, without warm-up, instead of one"
    )
    identity_temperature: float = Field(0.07, gt=0, description="τ of Eq. 2; CLIP-ReID 1")
    identity_normalize: bool = Field(
        True, description="Eq. 2 on unit vectors; CLIP-ReID takes CLIP's as they are"
    )
    cell_features: Literal["attended", "value"] = Field(
        "attended",
        description="cells of Eq. 7: all tokens of CLIP's last attention, or its value path"
        " (MaskCLIP)",
    )
    cell_labels: Literal["majority", "nearest"] = Field(
        "majority", description="part of a cell in Eq. 7: the commonest, or that at its centre"
    )
    part_temperature: Annotated[float, Field(gt=0)] | Literal["clip"] = Field(
        0.07, description="τ of Eq. 7, a number or clip for 1 / CLIP's logit scale; MoCo 0.07"
    )
    part_normalize: bool = Field(
        True, description="Eq. 7 on unit vectors; false takes CLIP's own (CLIP-ReID, with τ = 1)"
    )
    part_negatives: Literal["batch", "image"] = Field(
        "batch", description="whether Eq. 7 contrasts over the batch or within each image"
    )
    part_positions: Literal["cells", "pooled"] = Field(
        "cells", description="Eq. 7 on grid cells, or on their mean over each part of an image"
    )
    part_weighting: Literal["area", "class_balanced"] = Field(
        "class_balanced", description="Eq. 7 averages over pixels (area, literal) or over texts"
    )
    background: Literal["include", "ignore"] = Field(
        "ignore", description="whether background cells take part in Eq. 7 (literal: include)"
    )
    precision: Precision = Field(
        "auto",
        description="of CLIP's image encoder in stage 1; auto is float16 on a GPU, as CLIP itself"
        " and CLIP-ReID, and float32 on a CPU",
    )
    feature_cache_gib: float = Field(
        20.0, ge=0, description="disk for CLIP's features of crops, for later runs; 0 keeps none"
    )


class TeachConfig(Settings):
    """`pivl-distill teach`."""

    data: DataSettings = DataSettings()
    clip: ClipSettings = ClipSettings()
    prompts: PromptSettings = PromptSettings()
    tuning: TuningSettings = TuningSettings()
    supervision: Literal["identity", "label", "part"] = Field(
        "part",
        description="texts of stage 2, rows of Table 3: identity: Eq. 3 alone (B, CLIP-ReID);"
        " label: and part texts without identity (B+H); part: and part texts (B+P, B+P+F)",
    )
    stage2: Stage2Settings = Stage2Settings(
        epochs=6, learning_rate=5e-4, loss=LossSettings(align=1.0, text_scale=2.0)
    )
    bank_precision: Literal["float32", "float16"] = Field(
        "float32", description="of the bank's texts on disk; float16 halves the file"
    )
    save_teacher_embeddings: bool = Field(
        False,
        description="also write the teacher's embeddings of the training crops, for"
        " stage2.loss.embedding of a student",
    )
    device: Device = Field("auto", description="auto takes a CUDA device where there is one")
    seed: int = Field(0, ge=0, description="of tokens, data order and augmentation")
