"""What `teach` makes of its settings before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.config import ClipSettings
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from teachers.teach import vit_options_of
from teachers.towers import ViTOptions


def dataset_seen_by(*camids: int | None) -> ReIDDataset:
    records = tuple(Record(Path(f"{n}.jpg"), n, camid) for n, camid in enumerate(camids))
    return ReIDDataset("planted", Path(), records, records, records)


def test_without_a_coefficient_no_camera_vectors_are_learned() -> None:
    options = vit_options_of(ClipSettings(stride_px=12), dataset_seen_by(0, 1))
    assert options == ViTOptions(12)


def test_with_a_coefficient_every_camera_gets_a_vector() -> None:
    settings = ClipSettings(stride_px=16, sie_coefficient=0.5)
    assert vit_options_of(settings, dataset_seen_by(0, 4)) == ViTOptions(16, 5, 0.5)


def test_camera_vectors_of_unknown_cameras_are_refused() -> None:
    with pytest.raises(PivlError, match="which camera"):
        vit_options_of(ClipSettings(sie_coefficient=1.0), dataset_seen_by(None, None))
