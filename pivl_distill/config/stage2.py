"""Settings of stage 2, shared by teacher and student: augmentation and training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pivl_distill.config.base import Settings, TrainingPrecision, setting
from pivl_distill.config.fusion_head import HeadSettings
from pivl_distill.config.losses import LossSettings


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
    optimizer: Literal["adam", "adamw"] = setting(
        "adam",
        "adam: weight decay is added to the gradient; adamw: it is decoupled (Loshchilov 2019)",
        source="CLIP-ReID: adam",
        advanced=True,
    )
    learning_rate: float = setting(3e-3, "peak learning rate", source="§4.2: 3.5e-4 (CNN)", gt=0)
    weight_decay: float = setting(
        5e-4,
        "weight decay",
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
        "final learning rate of the cosine, as a fraction of the peak; 1: a constant rate",
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
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = setting(
        None,
        "the gradient of all parameters is scaled down to this norm; null: never",
        source="CLIP-ReID: null",
        advanced=True,
    )
    average_decay: float = setting(
        0.0,
        "decay d of the exponential moving average of the weights, which is evaluated and saved in"
        " their place; step t uses min(d, (1 + t) / (10 + t)). 0: no average",
        source="CLIP-ReID: 0",
        advanced=True,
        ge=0,
        lt=1,
    )
    evaluate_every: int = setting(
        0,
        "epochs between evaluations on the identities of data.validation_identities; 0: only after"
        " the last epoch",
        unit="epochs",
        advanced=True,
        ge=0,
    )
    keep_best: bool = setting(
        False,
        "whether to save the network of the evaluation with the highest validation mAP instead of"
        " the last; needs data.validation_identities",
        advanced=True,
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
