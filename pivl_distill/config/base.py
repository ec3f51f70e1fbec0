"""What all settings have in common: they do not change, and unknown keys are errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Device = Literal["auto", "cpu", "cuda", "meta"]
"""auto takes a CUDA device where there is one; meta has shapes and no numbers, for dry runs."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What a network computes in, by autocast; weights, heads and losses are float32 in any case."""


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
