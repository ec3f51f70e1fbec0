"""Settings of what a student learns from a teacher besides the texts of Eqs. 3 and 11."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from pivl_distill.config.base import Settings, setting


class DistillationSettings(Settings):
    """Terms that compare the student's embeddings with those of a teacher network."""

    embedding: float = setting(
        0.0,
        "weight of 2 − 2·cos between projected features and the teacher's centred embeddings",
        source="not in the paper",
        ge=0,
    )
    anchors: float = setting(
        0.0,
        "weight of the KL divergence between the similarities of teacher and student to fixed"
        " anchors: the mean embedding of each identity and, with a bank, each identity text",
        source="LGD (language-guided distillation); not in the paper",
        advanced=True,
        ge=0,
    )
    anchor_temperature: float = setting(
        0.1, "temperature τ of the similarities to anchors", advanced=True, gt=0
    )
    relation: float = setting(
        0.0,
        "weight of the KL divergence between the similarities of teacher and student to the other"
        " crops of the batch",
        source="after PKT, Passalis and Tefas 2018; not in the paper",
        ge=0,
    )
    relation_temperature: float = setting(
        0.1, "temperature τ of the similarities within a batch", advanced=True, gt=0
    )
    relaxed_contrastive: float = setting(
        0.0,
        "weight of the relaxed contrastive loss: pairs attract in proportion to their similarity"
        " for the teacher, and repel otherwise",
        source="Kim et al., CVPR 2021; not in the paper",
        advanced=True,
        ge=0,
    )
    logits: float = setting(
        0.0,
        "weight of the KL divergence between the identity logits of teacher and student",
        source="Hinton et al. 2015; not in the paper",
        advanced=True,
        ge=0,
    )
    logit_temperature: float = setting(
        4.0, "temperature of the logits; the term is multiplied by its square", advanced=True, gt=0
    )
    views: PositiveInt = setting(
        1,
        "number of stored views of each crop: 1 is the crop itself; others are flipped and"
        " shifted, and the student sees the view that the teacher saw",
        source="Faghri et al. 2023 (dataset reinforcement)",
        advanced=True,
    )
    start_epochs: int = setting(
        0,
        "epochs of the distillation terms alone, without labels, before stage 2; they include the"
        " crops of data.unlabeled",
        unit="epochs",
        advanced=True,
        ge=0,
    )

    @property
    def active(self) -> bool:
        """Whether any term has a weight."""
        weights = (self.embedding, self.anchors, self.relation, self.relaxed_contrastive)
        return any((*weights, self.logits))


class CompatibilitySettings(Settings):
    """Training for the gallery of another network."""

    network: str | None = setting(
        None,
        "network in whose gallery the student's queries must work: a run, a checkpoint, an export,"
        " or a ReID network as .onnx or OpenVINO .xml; null: none",
        advanced=True,
    )
    preset: str | None = setting(
        None,
        "preprocessing of such a network of others: a preset (osnet, intel-retail, fastreid,"
        " clip-reid, tao) or a YAML file",
        advanced=True,
    )
    regression: float = setting(
        1.0,
        "weight of 2 − 2·cos between the student's embedding and the other network's vector of the"
        " same crop, relative to the variance of these vectors",
        source="not in the paper",
        advanced=True,
        ge=0,
    )
    classification: float = setting(
        1.0,
        "weight of the cross-entropy over identities of the student's embedding, with the other"
        " network's mean vectors of identities as the classifier",
        source="after BCT, Shen et al., CVPR 2020; not in the paper",
        advanced=True,
        ge=0,
    )
    temperature: float = setting(
        0.1,
        "temperature τ of the cosines to mean vectors, relative to the variance of the vectors",
        advanced=True,
        gt=0,
    )

    @model_validator(mode="after")
    def _check_weights(self) -> CompatibilitySettings:
        if self.network is not None and not (self.regression or self.classification):
            raise ValueError("regression and classification are both 0; one of them needs a weight")
        return self


class PartClassificationSettings(Settings):
    """Classification of the final map's parts by the part texts of the bank."""

    weight: float = setting(
        0.0,
        "weight of the cross-entropy over identities between the pooled features of each part on"
        " the final map and the centred texts of that part",
        source="not in the paper",
        ge=0,
    )
    temperature: float = setting(
        0.07, "temperature τ that divides cosines", source="MoCo: 0.07", advanced=True, gt=0
    )
    schedule: tuple[float, float, float, float] = setting(
        (0.05, 0.2, 0.65, 0.85),
        "shares of training at which the weight starts to rise, is reached, starts to fall, and is"
        " 0 again",
        source="after BoxMOT's GRD recipe",
        advanced=True,
    )
    gradient_cap: Annotated[float, Field(gt=0)] | None = setting(
        0.3,
        "upper limit of the term's gradient at the final map, relative to that of the other terms;"
        " null: none",
        source="after BoxMOT's GRD recipe",
        advanced=True,
    )

    @field_validator("schedule")
    @classmethod
    def _check_schedule(
        cls, schedule: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        if list(schedule) != sorted(schedule) or schedule[0] < 0 or schedule[1] > 1:
            raise ValueError("must be four shares in ascending order, the first two in 0..1")
        return schedule
