"""Which student fits a latency budget: candidates from small to large, chosen by measurement.

Multiply-adds do not predict latency (a MobileNet can be slower than a ResNet of several times its
multiply-adds), so what decides is the time of each candidate's own exported file, on the device it
is for. Measuring is not done here, for students export nothing.
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
"""By multiply-adds at 128×64; all have published ImageNet weights."""


@dataclass(frozen=True)
class Candidate:
    """A student that could be trained: multiply-adds of one image, median latency at batch 1."""

    arch: str
    parameters: int
    macs: int
    latency_ms: float


def choose_candidate(candidates: Sequence[Candidate], max_ms: float) -> Candidate:
    """The largest by multiply-adds that takes at most `max_ms`; PivlError if none does."""
    within = [candidate for candidate in candidates if candidate.latency_ms <= max_ms]
    if not within:
        fastest = min(candidates, key=lambda candidate: candidate.latency_ms)
        raise PivlError(
            f"No candidate takes at most {max_ms:g} ms here; the fastest, {fastest.arch}, takes"
            f" {fastest.latency_ms:.2f} ms. Allow more, or make data.size_hw smaller."
        )
    return max(within, key=lambda candidate: candidate.macs)
