"""What all settings have in common: they do not change, and unknown keys are errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Device = Literal["auto", "cpu", "cuda", "meta"]
"""auto takes a CUDA device where there is one; meta has shapes and no numbers, for dry runs."""


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
