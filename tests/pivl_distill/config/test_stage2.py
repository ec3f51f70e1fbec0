"""Settings of the head and of the losses."""

from __future__ import annotations

import pytest

from pivl_distill.config import StudentConfig, load_config
from pivl_distill.errors import PivlError


def student(**overrides: object) -> StudentConfig:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(StudentConfig, "student", None, dotted)


@pytest.mark.parametrize("levels", [[], [1], [2, 2], [4, 2], [6]])
def test_levels_must_be_known_and_ascending(levels):
    with pytest.raises(PivlError, match=r"levels: Value error, must be some of \[2, 3, 4, 5\]"):
        student(stage2__head__levels=levels)


def test_contrastive_distance_excludes_soft_labels_and_confidence():
    with pytest.raises(PivlError, match="a contrast needs one text for each cell"):
        student(stage2__loss__align_labels="soft", stage2__loss__align_distance="contrastive")
    with pytest.raises(PivlError, match="a contrast does not weigh cells"):
        student(stage2__loss__align_confidence=True, stage2__loss__align_distance="contrastive")


@pytest.mark.parametrize(("scale", "taken"), [(3, 3.0), ("clip", "clip")])
def test_text_scale_is_positive_or_clip(scale, taken):
    assert student(stage2__loss__text_scale=scale).stage2.loss.text_scale == taken
    for wrong in (0, "CLIP"):
        with pytest.raises(PivlError, match="text_scale"):
            student(stage2__loss__text_scale=wrong)
