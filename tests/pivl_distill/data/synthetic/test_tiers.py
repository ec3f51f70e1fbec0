"""Tiers: consistent values, and look-up by name."""

from __future__ import annotations

import pytest

from pivl_distill.data.synthetic.tiers import TIERS, get_tier
from pivl_distill.errors import PivlError


def test_tiers_get_harder() -> None:
    default, medium, hard = (TIERS[name] for name in ("default", "medium", "hard"))
    assert default.family_size < medium.family_size < hard.family_size
    assert default.cast < medium.cast < hard.cast


@pytest.mark.parametrize("name", TIERS)
def test_no_family_is_split_between_train_and_test(name: str) -> None:
    tier = get_tier(name)
    assert tier.name == name
    assert tier.train_pids % tier.family_size == 0
    assert tier.test_pids % tier.family_size == 0
    assert tier.shots >= 2  # one query, the rest gallery


def test_unknown_tier_names_the_nearest_and_all() -> None:
    with pytest.raises(PivlError, match=r"synthetic tier 'defualt'; did you mean 'default'\?") as e:
        get_tier("defualt")
    assert all(name in str(e.value) for name in TIERS)
