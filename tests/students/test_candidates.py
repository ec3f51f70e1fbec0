"""The choice of the largest student within a latency budget."""

from __future__ import annotations

import pytest
import timm

import students.backbones  # noqa: F401  (registers mobilenetv2_025)
from pivl_distill.errors import PivlError
from students.candidates import CANDIDATES, Candidate, choose_candidate

MEASURED = (
    Candidate("small", 1, 10, 0.5),
    Candidate("slow for its size", 1, 20, 9.0),
    Candidate("medium", 1, 50, 2.0),
    Candidate("large", 1, 900, 8.0),
)


@pytest.mark.parametrize(
    ("max_ms", "arch"),
    [(0.5, "small"), (1.99, "small"), (2.0, "medium"), (7, "medium"), (8, "large"), (99, "large")],
)
def test_largest_candidate_within_the_budget_is_chosen(max_ms, arch):
    assert choose_candidate(MEASURED, max_ms).arch == arch


def test_too_small_budget_error_names_the_fastest_candidate():
    with pytest.raises(PivlError, match=r"at most 0\.1 ms here; the fastest, small, takes 0\.50"):
        choose_candidate(MEASURED, 0.1)


@pytest.mark.parametrize("arch", CANDIDATES)
def test_candidates_are_known_architectures(arch):
    assert timm.is_model(arch)
