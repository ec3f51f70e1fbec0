"""Settings of `pivl-distill student`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pivl_distill.config.base import Device, Settings
from pivl_distill.config.data import DataSettings
from pivl_distill.config.stage2 import Stage2Settings


class StudentConfig(Settings):
    """`pivl-distill student`."""

    data: DataSettings = DataSettings()
    arch: str = Field("mobilenetv2_025", description="mobilenetv2_025 or any timm model")
    pretrained: str = Field(
        "auto", description="auto, embedded, timm, none or a file: where training starts from"
    )
    last_stride: Literal["auto", 1, 2] = Field("auto", description="stride of the last CNN stage")
    supervision: Literal["none", "identity", "part", "label", "permuted"] = Field(
        "part",
        description="none: no bank; identity: Eq. 3 alone; part: Eq. 3 and 11; label: part texts"
        " without identity; permuted: texts of other identities (control)",
    )
    teacher_embeddings: Path | None = Field(
        None,
        description="the teacher's embeddings for stage2.loss.embedding; default: beside the bank",
    )
    stage2: Stage2Settings = Stage2Settings()
    trust_pids: bool = Field(
        False, description="take a bank that was made from none of these images of its identities"
    )
    device: Device = Field("auto", description="auto takes a CUDA device where there is one")
    seed: int = Field(0, ge=0, description="of new layers, data order and augmentation")
