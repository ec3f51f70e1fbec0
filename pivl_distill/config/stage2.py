"""Settings of stage 2, which teacher and student share: head, losses, augmentation, loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pivl_distill.config.base import Precision, Settings

LEVELS = (2, 3, 4, 5)
"""The paper's numbers of the maps F_i, of strides 4, 8, 16; 5 (stride 32) is ViTDet's."""


class HeadSettings(Settings):
    """The fusion-alignment head (§3.4); it exists in training only."""

    levels: tuple[int, ...] = Field(
        (2, 3, 4),
        description="maps F_i of Eq. 10 that are fused: 2, 3, 4 at strides 4, 8, 16; [2, 4] as"
        " printed, [4] the last stage alone; 5 adds a ViT's stride 32",
    )
    merge: Literal["sum", "concat", "weighted"] = Field(
        "sum", description="Eq. 10: the sum, a 1×1 convolution of all maps, or learned weights"
    )
    lateral: Literal["pointwise", "depthwise", "auto", "separable", "grouped"] = Field(
        "pointwise",
        description="Eq. 9, of a CNN; depthwise is the letter, auto = it where D % C == 0,"
        " separable = depth-wise 3×3 then 1×1, grouped = 1×1 in gcd(C, D) groups",
    )
    lateral_norm: Literal["none", "batch", "layer"] = Field(
        "none", description="norm behind each lateral; the letter has none"
    )
    up: Literal["bilinear", "nearest"] = Field("bilinear", description="upsampling of Eq. 10")
    down: Literal["average", "nearest", "strided"] = Field(
        "average", description="downsampling of Eq. 10; strided = depth-wise 3×3 of stride 2"
    )
    vit: Literal["simple", "blocks"] = Field(
        "simple",
        description="a ViT's maps: ViTDet's pyramid of the last block, or the tokens after a third,"
        " two thirds and all of the blocks through laterals",
    )
    align_dim: PositiveInt | None = Field(
        None,
        description="dimension in which Eq. 11 compares, paper 1024; texts get there by a fixed"
        " orthogonal map, which keeps all their angles. null is the bank's own",
    )

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or list(levels) != sorted(set(levels) & set(LEVELS)):
            raise ValueError(f"must be some of {list(LEVELS)}, ascending")
        return levels


class LossSettings(Settings):
    """Terms of Eq. 12 and their weights."""

    identity: float = Field(1.0, ge=0, description="weight of L_id, label-smoothed cross-entropy")
    triplet: float = Field(1.0, ge=0, description="weight of L_tri, batch-hard")
    image_to_text: float = Field(1.0, ge=0, description="weight of L_i2tce, Eq. 3")
    align: float = Field(5.0, ge=0, description="weight of L_align, Eq. 11; paper 1 (unweighted)")
    embedding: float = Field(
        0.0, ge=0, description="weight of 2 − 2·cos to the teacher's embeddings; not in the paper"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="ε of L_id and L_i2tce")
    triplet_margin: float = Field(0.3, ge=0, description="margin of L_tri, paper 0.3")
    triplet_normalize: bool = Field(
        True, description="mine on unit vectors; raw features (CLIP-ReID) collapse weak starts"
    )
    text_scale: Annotated[float, Field(gt=0)] | Literal["clip"] = Field(
        10.0,
        description="norm that identity texts are given in Eq. 3; clip keeps CLIP's own, as"
        " CLIP-ReID. Logits much wider than CLIP's own scale turn label smoothing into a pull"
        " to zero",
    )
    align_background: Literal["include", "ignore", "identity_free"] = Field(
        "ignore",
        description="background cells in Eq. 11: left out, a part like others (literal), or with"
        " one text for all identities",
    )
    align_labels: Literal["majority", "nearest", "soft"] = Field(
        "majority",
        description="part of a cell in Eq. 11: the commonest of its pixels, the one at its centre,"
        " or all of them, as the mean of their texts",
    )
    align_distance: Literal["cosine", "mse", "smooth_l1", "contrastive"] = Field(
        "cosine",
        description="Eq. 11 as 2 − 2·cos, a plain mean squared error (literal), its smooth-L1"
        " form, or the contrast of Eq. 7 once more",
    )
    align_confidence: bool = Field(
        False,
        description="weigh the cells of Eq. 11 by the parser's confidence, where maps hold one"
        " (later version of the paper)",
    )
    align_temperature: float = Field(0.07, gt=0, description="τ of the contrastive distance only")

    @model_validator(mode="after")
    def _check_contrast(self) -> LossSettings:
        if self.align_distance == "contrastive" and self.align_labels == "soft":
            raise ValueError("a contrast needs one text for each cell: soft labels have several")
        if self.align_distance == "contrastive" and self.align_confidence:
            raise ValueError("a contrast does not weigh cells: leave align_confidence out")
        return self


class AugmentSettings(Settings):
    """Random changes to a crop and its map together (§4.2)."""

    pad_px: int = Field(5, ge=0, description="padding before the random crop; paper 10 at 256×128")
    flip_probability: float = Field(0.5, ge=0, le=1, description="horizontal flip")
    erase_probability: float = Field(0.5, ge=0, le=1, description="random erasing")
    fill: Literal["mean", "noise"] = Field(
        "mean",
        description="padding and erased boxes in the mean colour, or black and unit noise, as"
        " CLIP-ReID's",
    )
    invented: Literal["ignore", "background"] = Field(
        "ignore", description="the part of padding and erased boxes: unknown, or background"
    )


class Stage2Settings(Settings):
    """The training loop that teacher and student share."""

    epochs: PositiveInt = Field(20, description="paper: 120 CNN, 60 ViT")
    identities_per_batch: PositiveInt = Field(8, description="P of P×K; paper 16")
    crops_per_identity: PositiveInt = Field(4, description="K of P×K")
    learning_rate: float = Field(3e-3, gt=0, description="Adam; paper 3.5e-4 (CNN)")
    weight_decay: float = Field(5e-4, ge=0, description="of Adam; CLIP-ReID's ViT 1e-4")
    weight_decay_on: Literal["weights", "all"] = Field(
        "weights", description="all decays biases and norms too, as CLIP-ReID"
    )
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up, in epochs")
    schedule: Literal["cosine", "steps"] = Field(
        "cosine", description="cosine step by step, or CLIP-ReID's steps, one rate per epoch"
    )
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="end of the cosine, times the rate")
    warmup_factor: float = Field(
        0.01, ge=0, le=1, description="start of the warm-up of steps; CLIP-ReID's ViT 0.1"
    )
    milestones: tuple[PositiveInt, ...] = Field(
        (40, 70), description="epochs from which steps are lower; CLIP-ReID's ViT 30 and 50"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each of the steps")
    bias_lr_factor: float = Field(
        1.0, gt=0, description="rate of biases, times that of weights; CLIP-ReID 2"
    )
    precision: Precision = Field(
        "auto",
        description="of the network in training; auto is bfloat16 on a GPU that has it, else"
        " float32. float16 scales its loss; CLIP-ReID trains with it",
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile of the network; auto does it in long runs on a CPU, where it"
        " was measured to pay (docs/speed.md)",
    )
    accumulate: PositiveInt = Field(
        1,
        description="parts that a batch goes through the network in, to save memory; losses see"
        " the whole batch (GradCache, Gao et al. 2021), batch norm only its part",
    )
    checkpointing: bool = Field(
        False, description="compute a ViT's blocks twice instead of keeping what they hold"
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
