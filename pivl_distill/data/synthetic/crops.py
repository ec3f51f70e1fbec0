"""Rendered crops in memory, for pretraining and benchmarks: no files, one crop per person.

Each crop shows a different person under a camera drawn at random from a set, with a random cast.
Benchmarks use other seeds, hence other people and other cameras.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from pivl_distill.console import track
from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.people import Person, person
from pivl_distill.data.synthetic.render import render
from pivl_distill.distributed.workers import ctrl_c_ignored

_CHUNK = 200


@dataclass(frozen=True)
class RenderedCrops:
    """N crops of N people with exact label maps."""

    images: np.ndarray
    """uint8 RGB [N, H, W, 3]."""
    labels: np.ndarray
    """uint8 [N, H, W] LIP-20 ids."""
    people: tuple[Person, ...]


def render_crops(
    seed: int, count: int, cameras: int, size_hw: tuple[int, int] = (128, 64)
) -> RenderedCrops:
    """Render one crop of each person 0..count−1 of `seed`, with any number of processes."""
    starts = range(0, count, _CHUNK)
    job = partial(_render_chunk, seed, count, cameras, size_hw)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        with ctrl_c_ignored():
            rendered = pool.map(job, starts)
        chunks = list(track(rendered, "Rendering people", total=len(starts)))
    images, labels = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return RenderedCrops(images, labels, tuple(person(seed, i, 1) for i in range(count)))


def _render_chunk(
    seed: int, count: int, cameras: int, size_hw: tuple[int, int], start: int
) -> tuple[np.ndarray, np.ndarray]:
    crops = []
    for index in range(start, min(start + _CHUNK, count)):
        rng = np.random.default_rng([seed, index, 31])
        view = camera(seed, int(rng.integers(cameras)), cast=float(rng.uniform(0.25, 1.0)))
        crops.append(render(person(seed, index, 1), view, [seed, index], size_hw))
    return np.stack([c.image for c in crops]), np.stack([c.labels for c in crops])
