"""Difficulty levels of the synthetic benchmark.

Two parameters set the difficulty: how many people share their large garments, and how much the
cameras differ. `tiny` is for tests, `small` for the demo, and
`crowd` for crops without labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from pivl_distill.errors import unknown_name


@dataclass(frozen=True)
class Tier:
    """Size and difficulty of a synthetic dataset.

    `family_size` people share body, top and bottom; `cast` 0–1 is the difference between cameras;
    there are `shots` crops of every person by every camera. `distractors` (pid 0, a third of them
    empty) and `junk` (pid −1) are added to the gallery folder, as in Market-1501.
    """

    name: str
    family_size: int
    cast: float
    train_pids: int
    test_pids: int
    cameras: int
    shots: int
    distractors: int
    junk: int
    size_hw: tuple[int, int] = (128, 64)


TIERS: dict[str, Tier] = {
    "tiny": Tier(
        "tiny", family_size=2, cast=0.25, train_pids=8, test_pids=8, cameras=3, shots=2,
        distractors=6, junk=3,
    ),
    "small": Tier(
        "small", family_size=1, cast=0.25, train_pids=64, test_pids=64, cameras=6, shots=2,
        distractors=96, junk=24,
    ),
    "default": Tier(
        "default", family_size=1, cast=0.25, train_pids=128, test_pids=128, cameras=6, shots=2,
        distractors=192, junk=48,
    ),
    "crowd": Tier(
        "crowd", family_size=1, cast=0.25, train_pids=768, test_pids=8, cameras=6, shots=2,
        distractors=0, junk=0,
    ),
    "medium": Tier(
        "medium", family_size=2, cast=0.5, train_pids=128, test_pids=128, cameras=6, shots=2,
        distractors=192, junk=48,
    ),
    "hard": Tier(
        "hard", family_size=4, cast=1.0, train_pids=128, test_pids=128, cameras=6, shots=2,
        distractors=192, junk=48,
    ),
}  # fmt: skip


def get_tier(name: str) -> Tier:
    """Return the tier called `name`; raises PivlError that lists the known ones."""
    if name not in TIERS:
        raise unknown_name("synthetic tier", name, TIERS)
    return TIERS[name]
