"""Fixtures of all tests: a cache of their own, people in coloured bands, a bank about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20

SIZE_HW = (128, 64)
PIDS = (3, 7, 8, 12, 20, 21)
BANDS = ("Hat", "Face", "Upper-clothes", "Pants", "Left-shoe")
BAND_EDGES_PX = (0, 16, 32, 72, 120, 128)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Synthetic data sets made by tests are made once per session, away from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIVL_DISTILL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def band_store() -> CropStore:
    """Four noisy crops of six people in coloured bands from head to feet, background either side.

    Every part of a person has its own colour.
    """
    bands = np.zeros(SIZE_HW, np.uint8)
    for label, top, bottom in zip(BANDS, BAND_EDGES_PX, BAND_EDGES_PX[1:], strict=False):
        bands[top:bottom, 16:48] = LIP20.index(label)
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(PIDS)), 4)
    colours = rng.integers(0, 200, (len(PIDS), len(LIP20), 3))
    clean = colours[rows][:, bands]
    crops = (clean + rng.integers(0, 56, clean.shape)).astype(np.uint8)
    maps = np.repeat(bands[None], len(rows), axis=0)
    return CropStore(crops, maps, np.array(PIDS)[rows], np.arange(len(rows)) % 2)


@pytest.fixture
def prompt_bank() -> PromptBank:
    """Random texts of dimension 16 for the people of `band_store`; one hat was never seen."""
    generator = torch.Generator().manual_seed(0)
    present = torch.zeros(len(PIDS), len(LIP20), dtype=torch.bool)
    present[:, [LIP20.background, *map(LIP20.index, BANDS)]] = True
    present[2, LIP20.index("Hat")] = False
    return PromptBank(
        identity=torch.randn(len(PIDS), 16, generator=generator),
        part=torch.randn(len(PIDS), len(LIP20), 16, generator=generator),
        label=torch.randn(len(LIP20), 16, generator=generator),
        present=present,
        pids=PIDS,
        vocabulary=LIP20,
        provenance={"clip": "none", "dataset": "bands", "prompts": {"learned_tokens": 4}},
    )
