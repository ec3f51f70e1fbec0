"""The bank's numbers are those of run.json and of the bank itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.bank import PromptBank
from pivl_distill.report.blocks import ChartGrid, LeftOutError, PictureRows, Text
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.sections import bank as module


@pytest.fixture(scope="module")
def taught(run_folders: Path) -> PromptBank:
    return PromptBank.load(run_folders / "runs" / "teach-1" / "prompt_bank.safetensors")


def test_the_read_out_is_that_of_run_json(page, run_folders: Path) -> None:
    readout = json.loads((run_folders / "runs/teach-1/run.json").read_text())["readout"]
    table = page.tables["Read-out of teach-1"]
    for key, title in module.READOUT.items():
        assert table.row(title)["Value"][1] == readout[key]
    for name, value in readout["colour"].items():
        assert table.row(f"Part texts nearest to the true colour: {name}")["Value"][1] == value
    assert table.row("Mean cosine of two identity texts")["Value"][1] == readout["identity_cosine"]
    parts = page.tables["Part texts of teach-1: near 1 they say little about the person"]
    for part, value in readout["part_cosine"].items():
        row = parts.row(part)
        assert row["Mean cosine of two identities"][1] == value
        assert row["After the mean text is subtracted"][1] == readout["part_cosine_centred"][part]


def test_cosines_agree_with_naive_ones(prompt_bank: PromptBank) -> None:
    texts = [F.normalize(text.double(), dim=0) for text in prompt_bank.identity]
    mean = sum(texts) / len(texts)
    for one, ours in enumerate(texts):
        for other, theirs in enumerate(texts):
            expected = F.cosine_similarity(ours - mean, theirs - mean, dim=0)
            found = module.identity_cosines(prompt_bank)[one, other]
            assert found == pytest.approx(float(expected), abs=1e-9)


def test_part_cosines_count_only_people_with_both_parts(prompt_bank: PromptBank) -> None:
    hat, face = (prompt_bank.vocabulary.index(label) for label in ("Hat", "Face"))
    found = module.part_cosines(prompt_bank)
    both = [row for row, present in enumerate(prompt_bank.present) if present[hat] & present[face]]
    cosines = [F.cosine_similarity(*prompt_bank.part[row, [hat, face]], dim=0) for row in both]
    assert found[hat, face] == pytest.approx(float(sum(cosines) / len(cosines)), abs=1e-6)
    assert torch.isnan(found[hat, prompt_bank.vocabulary.index("Skirt")])
    assert len(both) == len(prompt_bank.pids) - 1


def test_nearest_pairs_are_the_most_similar_people_first(prompt_bank: PromptBank) -> None:
    cosines = module.identity_cosines(prompt_bank).numpy()
    pairs = module.nearest_pairs(cosines, 5)
    values = [cosines[pair] for pair in pairs]
    every = sorted((cosines[a, b] for a in range(6) for b in range(a)), reverse=True)
    assert values == pytest.approx(every[:5])
    assert all(one < other for one, other in pairs)


def test_pairs_on_the_page_are_those_of_the_bank(page, taught: PromptBank) -> None:
    cosines = module.identity_cosines(taught).numpy()
    (one, other), *_ = module.nearest_pairs(cosines, 1)
    table = page.tables["Numbers: pairs of teach-1 with the most similar texts"]
    name = f"pid {taught.pids[one]} and pid {taught.pids[other]}"
    value = table.row(name)["Cosine after the mean text is subtracted"][1]
    assert value == max(table.values("Cosine after the mean text is subtracted"))
    assert value == pytest.approx(cosines[one, other])


def test_nearest_part_words_are_counted(page, taught: PromptBank) -> None:
    hat = taught.vocabulary.index("Hair")
    texts = F.normalize(taught.part[taught.present[:, hat], hat], dim=-1)
    nearest = (texts @ F.normalize(taught.label, dim=-1).T).argmax(-1)
    row = page.tables["Nearest part words in teach-1"].row("Hair")
    assert row["Identities with it"][1] == len(nearest)
    assert row["Nearest to its own word"][1] == (nearest == hat).float().mean().item()


def test_a_large_bank_does_not_grow_the_page(report_runs, prompt_bank: PromptBank) -> None:
    generator = torch.Generator().manual_seed(0)
    many = dataclasses.replace(
        prompt_bank,
        identity=torch.randn(400, 16, generator=generator),
        part=prompt_bank.part[:1].expand(400, -1, -1),
        present=prompt_bank.present[:1].expand(400, -1),
        pids=tuple(range(400)),
    )
    grid = module._similarities(report_runs["teach-1"], many)
    shown = np.array(grid.charts[0].figure.data[0].z)
    assert shown.shape == (module.MAX_IDENTITIES,) * 2
    assert "of 400, the most similar" in grid.charts[0].description
    cosines = module.identity_cosines(many).numpy()
    assert shown[~np.eye(len(shown), dtype=bool)].max() == pytest.approx(
        cosines[module.nearest_pairs(cosines, 1)[0]], abs=1e-4
    )


def test_pictures_of_a_pair_are_training_crops_of_both(report_runs) -> None:
    blocks = module.build(ReportContext([report_runs["teach-1"]], ReportSettings()))
    (rows,) = [block for block in blocks if isinstance(block, PictureRows)]
    assert 0 < len(rows.rows) <= module.PICTURED_PAIRS
    assert {len(row.lines) for row in rows.rows} == {2}
    assert any(isinstance(block, ChartGrid) for block in blocks)


def test_without_photographs_the_rest_remains(report_runs) -> None:
    context = ReportContext([report_runs["teach-1"]], ReportSettings(crops=False))
    blocks = module.build(context)
    assert not any(isinstance(block, PictureRows) for block in blocks)
    assert any("--no-crops" in block.text for block in blocks if isinstance(block, Text))


def test_without_a_bank_the_section_is_left_out(report_runs) -> None:
    with pytest.raises(LeftOutError, match="prompt bank"):
        module.build(ReportContext([report_runs["student-2"]], ReportSettings()))
