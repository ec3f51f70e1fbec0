"""Settings of `pivl-distill student`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pivl_distill.config.base import MAX_SEED, DeviceChoice, Settings, setting
from pivl_distill.config.data import DataSettings
from pivl_distill.config.distillation import (
    CompatibilitySettings,
    DistillationSettings,
    PartClassificationSettings,
)
from pivl_distill.config.stage2 import Stage2Settings


class StudentConfig(Settings):
    """Settings of `pivl-distill student`."""

    data: DataSettings = DataSettings()
    arch: str = setting("mobilenetv2_025", "mobilenetv2_025, or the name of a timm model")
    pretrained: str = setting(
        "auto",
        "initial weights: embedded, timm, none or a file; auto: embedded weights on synthetic data"
        " if the architecture has them, else timm's; without a connection the embedded ones",
    )
    last_stride: Literal["auto", 1, 2] = setting(
        "auto", "stride of the last stage of a CNN; auto: 1 if the network allows it", advanced=True
    )
    supervision: Literal["none", "identity", "part", "label", "permuted"] = setting(
        "part",
        "texts that supervise training. none: no bank; identity: identity texts (Eq. 3); part:"
        " identity and part texts (Eq. 3 and 11); label: part texts without identity; permuted:"
        " texts of other identities (a control experiment)",
        source="Table 5: none, identity and part",
    )
    teacher: str = setting(
        "auto",
        "embeddings that the distill terms compare with: a run, its file, a ReID network as .onnx"
        " or OpenVINO .xml, or none; auto: the file in the bank's folder, if there is one",
    )
    teacher_preset: str | None = setting(
        None,
        "preprocessing of a teacher network: a preset (osnet, intel-retail, fastreid, clip-reid,"
        " tao) or a YAML file",
        advanced=True,
    )
    distill: DistillationSettings = DistillationSettings(embedding=4.0, relation=3.0)
    part_classification: PartClassificationSettings = PartClassificationSettings()
    compatible: CompatibilitySettings = CompatibilitySettings()
    stage2: Stage2Settings = Stage2Settings(
        epochs=30,
        identities_per_batch=16,
        optimizer="adamw",
        learning_rate=6e-3,
        min_lr_ratio=1.0,
        max_gradient_norm=1.0,
        average_decay=0.999,
        warmup_epochs=3.0,
    )
    trust_pids: bool = setting(
        False,
        "accept a bank that was trained on other images, if its identity numbers match",
        advanced=True,
    )
    device: DeviceChoice = setting(
        "auto",
        "device of training; auto: a CUDA device if there is one, else the CPU; meta: shapes only,"
        " for --dry-run",
    )
    seed: int = setting(
        0, "random seed of new layers, the order of the data and augmentation", ge=0, le=MAX_SEED
    )

    @property
    def uses_maps(self) -> bool:
        """Whether the student is trained with part texts (Eq. 11), and so with parsing maps."""
        return self.supervision in ("part", "label", "permuted")

    @property
    def classifies_parts(self) -> bool:
        """Whether the student is trained with part texts on its final map."""
        return self.uses_maps and self.part_classification.weight > 0

    @model_validator(mode="after")
    def _check_gradient_cap(self) -> StudentConfig:
        capped = self.classifies_parts and self.part_classification.gradient_cap is not None
        if capped and self.stage2.accumulate > 1:
            raise ValueError(
                "part_classification.gradient_cap limits a gradient of the whole batch, which"
                " stage2.accumulate never computes at once: set it to null, or stage2.accumulate to"
                " 1"
            )
        return self
