"""Prompt banks: safetensors files with edited header and metadata, or damaged bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import edited_safetensors
from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.vocabulary import COARSE6
from pivl_distill.training.alignment import TextFeatures

NAME = "bank.safetensors"


@cache
def _seeds() -> list[bytes]:
    generator = torch.Generator().manual_seed(0)
    people, parts, dim = (3, 7), len(COARSE6), 4
    bank = PromptBank(
        identity=torch.randn(len(people), dim, generator=generator),
        part=torch.randn(len(people), parts, dim, generator=generator),
        label=torch.randn(parts, dim, generator=generator),
        present=torch.ones(len(people), parts, dtype=torch.bool),
        pids=people,
        vocabulary=COARSE6,
        provenance={"clip": "none", "dataset": "somewhere", "prompts": {"learned_tokens": 4}},
        image_digests=frozenset({5, -9}),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("full", "half")]
        bank.save(files[0])
        bank.save(files[1], "float16")
        return [file.read_bytes() for file in files]


def cases() -> st.SearchStrategy[Case]:
    """One bank."""
    contents = st.sampled_from(_seeds()).flatmap(edited_safetensors)
    return contents.map(lambda data: Case({NAME: data}))


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Load the bank, make the texts of a student from it, and save it again unchanged."""
    bank = PromptBank.load(given / NAME)
    for name in ("identity", "part", "label"):
        assert getattr(bank, name).isfinite().all(), name
    bank.label_only()
    if len(bank.pids) > 1:
        bank.permuted(0)
    bank.select(bank.pids[:1])
    settings = StudentConfig().stage2
    TextFeatures.from_bank(bank, settings.loss, settings.head)
    bank.save(out / NAME)
    again = PromptBank.load(out / NAME)
    assert (again.pids, again.image_digests) == (bank.pids, bank.image_digests)
    assert torch.equal(again.part, bank.part)
