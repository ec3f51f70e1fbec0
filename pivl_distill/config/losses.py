"""Settings of the loss terms of stage 2 (Eq. 12)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pivl_distill.config.base import Settings, setting


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
        1.0,
        "weight of L_align, which aligns feature-map cells with part texts",
        source="Eq. 11 and 12: 1",
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
    centre_texts: bool = setting(
        False,
        "whether Eq. 3 uses identity texts minus their mean over identities, normalised; without"
        " it, logits mostly measure what all identities share",
        source="Eq. 3: false",
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
    def _check_choices(self) -> LossSettings:
        if self.centre_texts and self.text_scale == "clip":
            raise ValueError("centred texts have no norm of CLIP's: set text_scale to a number")
        if self.align_distance == "contrastive" and self.align_labels == "soft":
            raise ValueError("a contrast needs one text for each cell: soft labels have several")
        if self.align_distance == "contrastive" and self.align_confidence:
            raise ValueError("a contrast does not weigh cells: leave align_confidence out")
        return self
