"""Settings of the data, which teacher and student share."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from pivl_distill.config.base import Settings


class DataSettings(Settings):
    """Where crops and parsing maps come from."""

    spec: str = Field("synthetic:default", description="kind:argument, such as market1501:/data")
    parsing: Path | None = Field(None, description="folder of maps; default: <root>/parsing")
    size_hw: tuple[PositiveInt, PositiveInt] = Field(
        (128, 64), description="crop height and width in pixels; the paper's 256×128 for real CLIP"
    )
    crop_cache_gib: float = Field(
        20.0, ge=0, description="disk for decoded crops and maps, for later runs; 0 keeps none"
    )
