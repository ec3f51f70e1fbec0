"""Settings of `pivl-distill teach`: CLIP, prompts, prompt tuning (stage 1) and the teacher."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pivl_distill.config.base import MAX_SEED, DeviceChoice, Settings, TrainingPrecision, setting
from pivl_distill.config.data import DataSettings
from pivl_distill.config.losses import LossSettings
from pivl_distill.config.stage2 import Stage2Settings


class ClipSettings(Settings):
    """The CLIP model whose prompts are tuned."""

    name: str = setting(
        "tiny_rn", "tiny_rn or tiny_vit (embedded), or the name of an open_clip model"
    )
    weights: str = setting(
        "embedded",
        "embedded, an open_clip tag, hf-hub:ID, a file, or none. A CLIP-ReID .pth replaces the"
        " image encoder of the CLIP that `base` names",
    )
    activation: Literal["auto", "quick_gelu", "gelu"] = setting(
        "auto",
        "activation that weights in a file need. auto: by name, hash or contents of the file;"
        " quick_gelu: OpenAI's weights; gelu: those of LAION and DataComp",
        advanced=True,
    )
    base: str = setting(
        "openai",
        "weights of the token embeddings and logit scale, which a CLIP-ReID file lacks",
        advanced=True,
    )
    stride_px: PositiveInt | None = setting(
        None,
        "step between a ViT's patches; null: the patch size. Smaller steps overlap patches (OLP)",
        unit="pixels",
        source="CLIP-ReID with OLP: 12",
        advanced=True,
    )
    sie_coefficient: float = setting(
        0.0,
        "weight of a ViT's camera embeddings (SIE); 0 disables them",
        source="CLIP-ReID with SIE: 1",
        advanced=True,
        ge=0,
    )
    pixels: Literal["reid", "clip"] = setting(
        "reid",
        "mean and standard deviation that normalise pixels. reid: CLIP-ReID's (ImageNet's for a"
        " ResNet, 0.5 for a ViT); clip: those of CLIP's own training",
        source="CLIP-ReID: reid",
        advanced=True,
    )


class PromptSettings(Settings):
    """Prompt templates and learned tokens (§3.1, §3.3)."""

    identity: str = setting(
        "a photo of a {X} person",
        "identity prompt T_D; {X} marks the learned tokens",
        source="Eq. 1",
        advanced=True,
    )
    part: str = setting(
        "a photo of a {X} person {part}",
        "part prompt; the slots {X} and {part} may be in any order",
        source="Eq. 6",
        advanced=True,
    )
    label: str = setting(
        "a photo of a person {part}",
        "part prompt without identity, for supervision: label",
        source="Table 3, B+H",
        advanced=True,
    )
    part_words: Literal["plain", "raw"] = setting(
        "plain",
        "content of {part}: plain words (upper clothes), or the parser's label (Upper-clothes)",
        source="§3.3: raw",
        advanced=True,
    )
    learned_tokens: PositiveInt = setting(
        4, "M, the number of learned tokens of an identity", source="CLIP-ReID: 4", advanced=True
    )
    init_std: float = setting(
        0.02,
        "standard deviation of the initial learned tokens",
        source="CLIP-ReID: 0.02",
        advanced=True,
        gt=0,
    )

    @field_validator("identity", "part", "label")
    @classmethod
    def _check_slots(cls, template: str, info: ValidationInfo) -> str:
        slots = {"identity": ["{X}"], "part": ["{X}", "{part}"], "label": ["{part}"]}
        required = slots[str(info.field_name)]
        if sorted(re.findall(r"{\w*}|[{}]", template)) != required:
            raise ValueError(f"must contain {' and '.join(required)} once and no other braces")
        return template


class TuningSettings(Settings):
    """Stage 1: tuning of the learned tokens with CLIP frozen (§3.3, §4.2)."""

    identity_epochs: PositiveInt = setting(
        60, "epochs of Eq. 2", unit="epochs", source="§4.2: 60; CLIP-ReID with a ViT: 120"
    )
    part_epochs: int = setting(
        20, "epochs of Eq. 8, after those of Eq. 2", unit="epochs", source="§4.2: 20", ge=0
    )
    part_epochs_train: Literal["both", "part"] = setting(
        "both",
        "loss of the part epochs: the sum of Eq. 8, or L_part alone",
        source="Eq. 8: both",
        advanced=True,
    )
    batches: Literal["pk", "shuffle"] = setting(
        "pk",
        "batches: P×K sampling, or a random permutation in batches of P·K",
        source="§4.2: pk; CLIP-ReID: shuffle",
        advanced=True,
    )
    identities_per_batch: PositiveInt = setting(
        16, "P of P×K sampling: identities in a batch", source="§4.2: 16", advanced=True
    )
    crops_per_identity: PositiveInt = setting(
        4,
        "K of P×K sampling: crops of each identity in a batch",
        source="CLIP-ReID: 4",
        advanced=True,
    )
    learning_rate: float = setting(
        2e-2,
        "peak learning rate of Adam",
        source="§4.2: 3.5e-4; the tiny embedded text encoder needs more",
        gt=0,
    )
    min_learning_rate: float = setting(
        4e-4, "final learning rate of the cosine", source="CLIP-ReID: 1e-6", advanced=True, ge=0
    )
    weight_decay: float = setting(
        0.0, "weight decay of Adam", source="CLIP-ReID: 1e-4", advanced=True, ge=0
    )
    warmup_epochs: float = setting(
        2.0,
        "length of the linear warm-up",
        unit="epochs",
        source="CLIP-ReID: 5",
        advanced=True,
        ge=0,
    )
    lr_schedule: Literal["cosine", "cosine_per_epoch"] = setting(
        "cosine",
        "learning-rate schedule: a cosine updated every step, or every epoch",
        source="CLIP-ReID: cosine_per_epoch",
        advanced=True,
    )
    warmup_rate: float = setting(
        1e-5,
        "first learning rate of the warm-up of cosine_per_epoch",
        source="CLIP-ReID: 1e-5",
        advanced=True,
        ge=0,
    )
    restart: bool = setting(
        False,
        "whether the part epochs have a second cosine without warm-up; otherwise one cosine covers"
        " all epochs",
        source="§4.2: not specified",
        advanced=True,
    )
    identity_temperature: float = setting(
        0.07, "temperature τ of Eq. 2", source="CLIP-ReID: 1", advanced=True, gt=0
    )
    identity_normalize: bool = setting(
        True,
        "whether Eq. 2 normalises features to unit length",
        source="CLIP-ReID: false",
        advanced=True,
    )
    cell_features: Literal["attended", "value"] = setting(
        "attended",
        "features of a grid cell in Eq. 7: outputs of CLIP's last attention for all tokens, or its"
        " value path",
        source="§3.3: not specified; value: MaskCLIP",
        advanced=True,
    )
    cell_labels: Literal["majority", "nearest"] = setting(
        "majority",
        "part of a cell in Eq. 7: the most frequent among its pixels, or the one at its centre",
        source="Eq. 5–7: not specified",
        advanced=True,
    )
    part_temperature: Annotated[float, Field(gt=0)] | Literal["clip"] = setting(
        0.07,
        "temperature τ of Eq. 7; clip: 1 / CLIP's logit scale",
        source="MoCo: 0.07",
        advanced=True,
    )
    part_normalize: bool = setting(
        True,
        "whether Eq. 7 normalises features to unit length",
        source="Eq. 7: not specified; CLIP-ReID's Eq. 2: false, with τ = 1",
        advanced=True,
    )
    part_negatives: Literal["batch", "image"] = setting(
        "batch",
        "negatives of Eq. 7: from the whole batch, or from the same image",
        source="Eq. 7: not specified",
        advanced=True,
    )
    part_positions: Literal["cells", "pooled"] = setting(
        "cells",
        "samples of Eq. 7: grid cells, or their mean over each part of an image",
        source="Eq. 7: not specified",
        advanced=True,
    )
    part_weighting: Literal["area", "class_balanced"] = setting(
        "class_balanced",
        "average of Eq. 7: over cells, so that large parts weigh more, or over texts",
        source="Eq. 7: area; the default is our own measurement",
        advanced=True,
    )
    background: Literal["include", "ignore"] = setting(
        "ignore", "background cells in Eq. 7", source="Eq. 7: include", advanced=True
    )
    precision: TrainingPrecision = setting(
        "auto",
        "data type of CLIP's image encoder in stage 1; auto: float16 on a GPU, float32 on a CPU",
        source="CLIP and CLIP-ReID: float16",
        advanced=True,
    )
    feature_cache_gib: float = setting(
        20.0,
        "disk space for CLIP's features of crops, which later runs reuse; 0 disables the cache",
        unit="GiB",
        advanced=True,
        ge=0,
    )


class TeachConfig(Settings):
    """Settings of `pivl-distill teach`."""

    data: DataSettings = DataSettings()
    clip: ClipSettings = ClipSettings()
    prompts: PromptSettings = PromptSettings()
    tuning: TuningSettings = TuningSettings()
    supervision: Literal["identity", "label", "part"] = setting(
        "part",
        "texts that supervise stage 2. identity: identity texts (Eq. 3); label: these and part"
        " texts without identity; part: these and part texts of each identity",
        source="Table 3: B, B+H, and B+P or B+P+F",
    )
    stage2: Stage2Settings = Stage2Settings(
        epochs=6, learning_rate=5e-4, loss=LossSettings(text_scale=2.0)
    )
    bank_precision: Literal["float32", "float16"] = setting(
        "float32",
        "data type of the texts in the bank file; float16 halves its size",
        advanced=True,
    )
    embedding_views: int = setting(
        1,
        "views of each training crop whose teacher embeddings are written too, for the distill"
        " terms of a student; 0 writes no file",
        advanced=True,
        ge=0,
        le=64,
    )
    device: DeviceChoice = setting(
        "auto",
        "device of training; auto: a CUDA device if there is one, else the CPU; meta: shapes only,"
        " for --dry-run",
    )
    seed: int = setting(
        0,
        "random seed of learned tokens, the order of the data and augmentation",
        ge=0,
        le=MAX_SEED,
    )

    @property
    def uses_maps(self) -> bool:
        """Whether part prompts are learned, and so parsing maps are needed."""
        return self.supervision != "identity" or self.tuning.part_epochs > 0
