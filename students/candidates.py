"""Candidate architectures for a student, and the choice of the largest within a latency budget.

Multiply-adds do not predict latency: a MobileNet can be slower than a ResNet with several times its
multiply-adds. The choice therefore needs latencies measured on the target device, with each
candidate's exported file. The measurement is not in this package, which exports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pivl_distill.errors import PivlError

CANDIDATES = (
    "mobilenetv2_025",
    "mobilenetv2_050",
    "lcnet_100",
    "mobilenetv4_conv_small",
    "mobilenetv2_100",
    "efficientnet_b0",
    "mobilenetv4_conv_medium",
    "resnet18",
    "resnet50",
)
"""Sorted by multiply-adds at 128×64 pixels; all have published ImageNet weights."""


@dataclass(frozen=True)
class Candidate:
    """An architecture with the multiply-adds of one image and the median latency at batch 1."""

    arch: str
    parameters: int
    macs: int
    latency_ms: float


def choose_candidate(candidates: Sequence[Candidate], max_ms: float) -> Candidate:
    """Return the candidate with the most multiply-adds whose latency is at most `max_ms`.

    Raises PivlError if every candidate is slower.
    """
    within = [candidate for candidate in candidates if candidate.latency_ms <= max_ms]
    if not within:
        fastest = min(candidates, key=lambda candidate: candidate.latency_ms)
        raise PivlError(
            f"No candidate takes at most {max_ms:g} ms here; the fastest, {fastest.arch}, takes"
            f" {fastest.latency_ms:.2f} ms. Raise the limit, or reduce data.size_hw."
        )
    return max(within, key=lambda candidate: candidate.macs)
