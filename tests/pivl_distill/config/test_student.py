"""Settings of a student that exclude each other."""

from __future__ import annotations

import pytest

from pivl_distill.config import StudentConfig

PARTS = {"weight": 1.0, "gradient_cap": 0.3}


def test_a_gradient_cap_needs_the_whole_batch_at_once() -> None:
    with pytest.raises(ValueError, match=r"gradient_cap limits .* set it to null, or"):
        StudentConfig(part_classification=PARTS, stage2={"accumulate": 2})


@pytest.mark.parametrize(
    "changes",
    [
        {"stage2": {"accumulate": 1}},
        {"part_classification": {**PARTS, "gradient_cap": None}},
        {"part_classification": {**PARTS, "weight": 0.0}},
        {"supervision": "identity"},
        {"supervision": "none"},
    ],
)
def test_accumulation_is_fine_without_one(changes: dict[str, object]) -> None:
    settings = {"part_classification": PARTS, "stage2": {"accumulate": 2}, **changes}
    config = StudentConfig.model_validate(settings)
    assert config.classifies_parts == (
        config.supervision == "part" and config.part_classification.weight > 0
    )
