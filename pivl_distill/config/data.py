"""Data settings, shared by teacher and student."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt

from pivl_distill.config.base import Settings, setting


class DataSettings(Settings):
    """Where crops and parsing maps come from, and how they are read."""

    spec: str = setting(
        "synthetic:default", "data set as kind:argument, for example market1501:/data"
    )
    parsing: Path | None = setting(
        None, "folder of the parsing maps; null: the folder `parsing` of the data set, if it exists"
    )
    size_hw: tuple[PositiveInt, PositiveInt] = setting(
        (128, 64),
        "height and width that crops are resized to",
        unit="pixels",
        source="§4.2: 256×128; the default suits the embedded data",
    )
    validation_identities: int = setting(
        0,
        "training identities that are held out and evaluated on instead of trained on, to choose"
        " settings without looking at the test identities",
        unit="identities",
        advanced=True,
        ge=0,
    )
    evaluation: bool = setting(
        True,
        "whether the trained network is scored on query and gallery; false (--no-evaluation) for"
        " data on which nothing can be measured: query and gallery are then never read",
        advanced=True,
    )
    unlabeled: str | None = setting(
        None,
        "crops whose labels are unknown or ignored, for distillation (distill.start_epochs): a"
        " folder, or a data set as kind:argument",
        advanced=True,
    )
    crop_cache_gib: float = setting(
        20.0,
        "disk space for decoded crops and maps, which later runs reuse; 0 disables the cache",
        unit="GiB",
        advanced=True,
        ge=0,
    )
