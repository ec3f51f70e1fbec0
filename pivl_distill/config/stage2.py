"""Settings of stage 2, shared by teacher and student: losses, augmentation, training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pivl_distill.config.base import Settings, TrainingPrecision, setting
from pivl_distill.config.fusion_head import HeadSettings


class LossSettings(Settings):
    """Loss terms of Eq. 12 and their weights."""

    identity: float = setting(
        1.0,
        "weight of L_id, label-smoothed cross-entropy over identities",
        source="Eq. 12: 1; CLIP-ReID with a ViT: 0.25",
        advanced=True,
        ge=0,
    )
    triplet: float = setting(
        1.0, "weight of L_tri, the batch-hard triplet loss", source="Eq. 12: 1", advanced=True, ge=0
    )
    image_to_text: float = setting(
        1.0,
        "weight of L_i2tce, cross-entropy between an image and the identity texts",
        source="Eq. 3 and 12: 1",
        advanced=True,
        ge=0,
    )
    align: float = setting(
        5.0,
        "weight of L_align, which aligns feature-map cells with part texts",
        source="Eq. 11 and 12: 1; a student's default is our own measurement",
        ge=0,
    )
    embedding: float = setting(
        0.0,
        "weight of plain distillation, 2 − 2·cos to the teacher's embeddings",
        source="not in the paper",
        advanced=True,
        ge=0,
    )
    label_smoothing: float = setting(
        0.1, "ε of L_id and L_i2tce", source="CLIP-ReID: 0.1", advanced=True, ge=0, lt=1
    )
    triplet_margin: float = setting(0.3, "margin of L_tri", source="§4.2: 0.3", advanced=True, ge=0)
    triplet_normalize: bool = setting(
        True,
        "whether L_tri normalises features to unit length; without it, weakly initialised networks"
        " collapse",
        source="CLIP-ReID: false; the default is our own measurement",
        advanced=True,
    )
    text_scale: Annotated[float, Field(gt=0)] | Literal["clip"] = setting(
        10.0,
        "norm of the identity texts in Eq. 3; clip: CLIP's own norms. With logits much larger than"
        " CLIP's, label smoothing pulls features towards zero",
        source="CLIP-ReID: clip; the default is our own measurement",
        advanced=True,
    )
    align_background: Literal["include", "ignore", "identity_free"] = setting(
        "ignore",
        "background cells in Eq. 11: a part like any other, left out, or aligned with one text"
        " shared by all identities",
        source="Eq. 11: include",
        advanced=True,
    )
    align_labels: Literal["majority", "nearest", "soft"] = setting(
        "majority",
        "part of a cell in Eq. 11: the most frequent among its pixels, the one at its centre, or"
        " soft: the mean text of all its pixels",
        source="Eq. 11: not specified",
        advanced=True,
    )
    align_distance: Literal["cosine", "mse", "smooth_l1", "contrastive"] = setting(
        "cosine",
        "distance of Eq. 11: 2 − 2·cos, mean squared error, smooth L1, or the contrast of Eq. 7",
        source="Eq. 11: mse",
        advanced=True,
    )
    align_confidence: bool = setting(
        False,
        "whether Eq. 11 weights cells by the parser's confidence, if the maps store it",
        source="a later version of the paper",
        advanced=True,
    )
    align_temperature: float = setting(
        0.07,
        "temperature τ of the contrastive distance; ignored by the others",
        source="MoCo: 0.07",
        advanced=True,
        gt=0,
    )

    @model_validator(mode="after")
    def _check_contrast(self) -> LossSettings:
        if self.align_distance == "contrastive" and self.align_labels == "soft":
            raise ValueError("a contrast needs one text for each cell: soft labels have several")
        if self.align_distance == "contrastive" and self.align_confidence:
            raise ValueError("a contrast does not weigh cells: leave align_confidence out")
        return self


class AugmentSettings(Settings):
    """Random changes that a crop and its parsing map share (§4.2)."""

    pad_px: int = setting(
        5,
        "padding on each side before the random crop",
        unit="pixels",
        source="§4.2: 10 at 256×128",
        advanced=True,
        ge=0,
    )
    flip_probability: float = setting(
        0.5,
        "probability of a horizontal flip",
        source="CLIP-ReID: 0.5",
        advanced=True,
        ge=0,
        le=1,
    )
    erase_probability: float = setting(
        0.5,
        "probability of random erasing",
        source="CLIP-ReID: 0.5",
        advanced=True,
        ge=0,
        le=1,
    )
    fill: Literal["mean", "noise"] = setting(
        "mean",
        "content of padding and erased boxes. mean: the mean colour; noise: black padding, and"
        " standard normal noise in boxes",
        source="CLIP-ReID: noise",
        advanced=True,
    )
    invented: Literal["ignore", "background"] = setting(
        "ignore",
        "part label of padding and erased boxes: unknown, or background",
        source="§4.2: not specified",
        advanced=True,
    )


class Stage2Settings(Settings):
    """The stage-2 training loop of teacher and student."""

    epochs: PositiveInt = setting(
        20, "number of epochs", unit="epochs", source="§4.2: 120 (CNN), 60 (ViT)"
    )
    identities_per_batch: PositiveInt = setting(
        8, "P of P×K sampling: identities in a batch", source="§4.2: 16"
    )
    crops_per_identity: PositiveInt = setting(
        4,
        "K of P×K sampling: crops of each identity in a batch",
        source="CLIP-ReID: 4",
        advanced=True,
    )
    learning_rate: float = setting(
        3e-3, "peak learning rate of Adam", source="§4.2: 3.5e-4 (CNN)", gt=0
    )
    weight_decay: float = setting(
        5e-4,
        "weight decay of Adam",
        source="CLIP-ReID: 5e-4 (CNN), 1e-4 (ViT)",
        advanced=True,
        ge=0,
    )
    weight_decay_on: Literal["weights", "all"] = setting(
        "weights",
        "parameters that decay: weights only, or biases and norms too",
        source="CLIP-ReID: all",
        advanced=True,
    )
    warmup_epochs: float = setting(
        1.0,
        "length of the linear warm-up",
        unit="epochs",
        source="CLIP-ReID: 10",
        advanced=True,
        ge=0,
    )
    lr_schedule: Literal["cosine", "multistep"] = setting(
        "cosine",
        "learning-rate schedule: a cosine updated every step, or a drop at each milestone, updated"
        " every epoch",
        source="CLIP-ReID: multistep",
        advanced=True,
    )
    min_lr_ratio: float = setting(
        0.01,
        "final learning rate of the cosine, as a fraction of the peak",
        advanced=True,
        ge=0,
        le=1,
    )
    warmup_factor: float = setting(
        0.01,
        "first learning rate of the warm-up of multistep, as a fraction of the peak",
        source="CLIP-ReID: 0.01 (CNN), 0.1 (ViT)",
        advanced=True,
        ge=0,
        le=1,
    )
    milestones: tuple[PositiveInt, ...] = setting(
        (40, 70),
        "epochs at which multistep lowers the learning rate",
        unit="epochs",
        source="CLIP-ReID: 40 and 70 (CNN), 30 and 50 (ViT)",
        advanced=True,
    )
    gamma: float = setting(
        0.1,
        "factor of the learning rate at each milestone of multistep",
        source="CLIP-ReID: 0.1",
        advanced=True,
        gt=0,
        le=1,
    )
    bias_lr_factor: float = setting(
        1.0,
        "learning rate of biases, as a multiple of that of weights",
        source="CLIP-ReID: 2",
        advanced=True,
        gt=0,
    )
    precision: TrainingPrecision = setting(
        "auto",
        "data type of the network in training; auto: bfloat16 on a GPU that supports it, else"
        " float32. float16 uses loss scaling",
        source="CLIP-ReID: float16",
        advanced=True,
    )
    compile: bool | Literal["auto"] = setting(
        "auto",
        "whether to use torch.compile; auto: in long runs on a CPU",
        source="our own measurement, docs/speed.md",
        advanced=True,
    )
    accumulate: PositiveInt = setting(
        1,
        "number of parts in which a batch passes through the network, to save memory; the losses"
        " see the whole batch, batch norm only one part",
        source="GradCache, Gao et al. 2021",
        advanced=True,
    )
    checkpointing: bool = setting(
        False,
        "whether to recompute a ViT's blocks in the backward pass instead of storing activations",
        advanced=True,
    )
    head: HeadSettings = HeadSettings()
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _check_parts(self) -> Stage2Settings:
        crops = self.identities_per_batch * self.crops_per_identity
        if self.accumulate > crops:
            raise ValueError(f"accumulate: {self.accumulate} parts of a batch of {crops} crops")
        return self
