"""Stage 1: what is encoded, what counts as present, that prompts learn and that CLIP does not."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.losses import identity_contrast, part_contrast
from pivl_distill.runs import Run
from teachers.prompts import IdentityPrompts
from teachers.tuning import (
    FrozenFeatures,
    bank_texts,
    encode_crops,
    identity_loss,
    part_loss,
    present_parts,
    rate_at,
    set_rate,
    tune_prompts,
)

SETTINGS = TuningSettings(
    identity_epochs=6, part_epochs=6, identities_per_batch=4, crops_per_identity=2, warmup_epochs=0
)
PROMPTS = PromptSettings(learned_tokens=2)


@pytest.fixture(scope="module")
def features(frozen_clip, band_store) -> FrozenFeatures:
    return encode_crops(frozen_clip, band_store, LIP20)


@pytest.fixture(scope="module")
def rows(band_store) -> torch.Tensor:
    return torch.from_numpy(np.unique(band_store.pids, return_inverse=True)[1])


@pytest.fixture
def learned(frozen_clip) -> IdentityPrompts:
    generator = torch.Generator().manual_seed(0)
    return IdentityPrompts(frozen_clip.text, PROMPTS, 6, LIP20, generator)


def test_crops_are_encoded_at_unit_length_in_their_order(features, frozen_clip, band_store):
    assert features.projected.shape == (24, frozen_clip.image.dim)
    assert features.cells.shape == (24, 16 * 8, frozen_clip.image.dim)
    torch.testing.assert_close(features.cells.norm(dim=2), torch.ones(24, 128))
    crop = (torch.from_numpy(band_store.crops[17]).permute(2, 0, 1) / 255)[None]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (frozen_clip.mean, frozen_clip.std))
    tokens = F.normalize(frozen_clip.image.joint_tokens((crop - mean) / std)[0], dim=1)
    torch.testing.assert_close(features.projected[17], tokens[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.cells[17], tokens[1:], rtol=1e-4, atol=1e-5)


def test_each_cell_has_the_part_of_its_pixels(features, band_store):
    centres = torch.from_numpy(band_store.maps[:, 4::8, 4::8]).flatten(1)
    assert torch.equal(features.parts, centres.long())


def test_more_crops_than_a_batch_and_no_maps(frozen_clip, band_store):
    twice = np.concatenate([band_store.crops] * 3)
    store = CropStore(twice, None, np.arange(72), np.zeros(72, int))
    features = encode_crops(frozen_clip, store, LIP20)
    assert len(features.projected) == 72 > 64
    torch.testing.assert_close(features.projected[48:], features.projected[:24])
    assert (features.parts == IGNORE).all()


def test_a_part_is_present_where_any_crop_of_the_identity_shows_it():
    parts = torch.tensor([[0, 1], [5, IGNORE], [IGNORE, IGNORE], [9, 9]])
    present = present_parts(parts, torch.tensor([1, 1, 0, 2]), identities=4, parts=20)
    found = {row: present[row].nonzero().flatten().tolist() for row in range(4)}
    assert found == {0: [], 1: [0, 1, 5], 2: [9], 3: []}


def test_the_identity_loss_is_equation_2_over_the_batch(learned, features, rows):
    batch = np.array([0, 1, 8, 9, 20, 22])
    texts = F.normalize(learned.identity(torch.tensor([0, 2, 5])), dim=1)
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = identity_contrast(features.projected[batch], texts, owner, 0.07)
    torch.testing.assert_close(identity_loss(learned, features, rows, batch, SETTINGS), expected)


def cell_by_cell(learned, features, rows, batch, parts_left_out: set[int]) -> torch.Tensor:
    """Eq. 7 with the texts of the batch gathered in a dictionary."""
    number_of: dict[tuple[int, int], int] = {}
    cells, owner = [], []
    for crop in batch.tolist():
        for cell, part in zip(features.cells[crop], features.parts[crop].tolist(), strict=True):
            if part not in parts_left_out:
                pair = (int(rows[crop]), part)
                owner.append(number_of.setdefault(pair, len(number_of)))
                cells.append(cell)
    texts = [learned.part(torch.tensor([row]), torch.tensor([part])) for row, part in number_of]
    args = torch.stack(cells), F.normalize(torch.cat(texts), dim=1), torch.tensor(owner)
    return part_contrast(*args, SETTINGS.part_temperature, SETTINGS.part_weighting)


@pytest.mark.parametrize("background", ["ignore", "include"])
def test_the_part_loss_is_equation_7_over_the_cells_that_count(learned, features, rows, background):
    parts = features.parts.clone()
    parts[3, ::5] = IGNORE
    features = FrozenFeatures(features.projected, features.cells, parts)
    batch = np.array([2, 3, 8, 9])
    left_out = {IGNORE} | ({LIP20.background} if background == "ignore" else set())
    expected = cell_by_cell(learned, features, rows, batch, left_out)
    settings = SETTINGS.model_copy(update={"background": background})
    actual = part_loss(learned, features, rows, batch, settings, LIP20)
    torch.testing.assert_close(actual, expected)


def test_an_ignored_background_may_show_anything(learned, features, rows):
    changed = features.cells.clone()
    changed[features.parts == LIP20.background] = F.normalize(torch.ones(changed.shape[2]), dim=0)
    other = FrozenFeatures(features.projected, changed, features.parts)
    batch = np.arange(8)
    for background, same in (("ignore", True), ("include", False)):
        settings = SETTINGS.model_copy(update={"background": background})
        losses = [part_loss(learned, f, rows, batch, settings, LIP20) for f in (features, other)]
        assert torch.equal(*losses) == same, background


def test_without_a_known_cell_the_part_loss_is_zero_with_a_gradient(learned, features, rows):
    parts = torch.full_like(features.parts, IGNORE)
    blind = FrozenFeatures(features.projected, features.cells, parts)
    loss = part_loss(learned, blind, rows, np.arange(8), SETTINGS, LIP20)
    loss.backward()
    assert loss.item() == 0
    assert learned.tokens.grad is not None
    assert not learned.tokens.grad.any()


def tuned(clip, features, rows, folder, seed: int = 0) -> tuple[IdentityPrompts, list[dict]]:
    run = Run.create("teach", "", folder)
    learned = tune_prompts(clip, features, rows, LIP20, PROMPTS, SETTINGS, seed, run)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return learned, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def spoken(frozen_clip, features, rows) -> FrozenFeatures:
    """Features that a prompt can reach: the texts of hidden prompts, with some noise."""
    generator = torch.Generator().manual_seed(1)
    loud = PROMPTS.model_copy(update={"init_std": 1.0})
    hidden = IdentityPrompts(frozen_clip.text, loud, 6, LIP20, generator)
    with torch.no_grad():
        identity, part = bank_texts(hidden, 6, len(LIP20))
        projected, cells = identity[rows], part[rows[:, None], features.parts]
        for texts in (projected, cells):
            texts += 0.1 * texts.std() * torch.randn(texts.shape, generator=generator)
    return FrozenFeatures(F.normalize(projected, dim=1), F.normalize(cells, dim=2), features.parts)


def test_prompts_learn_and_clip_does_not(frozen_clip, spoken, rows, tmp_path):
    towers = frozen_clip.image, frozen_clip.text
    before = [copy.deepcopy(tower.state_dict()) for tower in towers]
    learned, metrics = tuned(frozen_clip, spoken, rows, tmp_path / "run")
    assert [line["epoch"] for line in metrics] == list(range(1, 13))
    assert all(line["stage"] == "prompts" for line in metrics)
    assert metrics[5]["identity"] < 0.9 * metrics[0]["identity"]
    assert all("part" not in line for line in metrics[:6])
    assert 0 < metrics[-1]["part"] < 0.95 * metrics[6]["part"]
    for tower, state in zip(towers, before, strict=True):
        for name, value in tower.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert all(p.grad is None for tower in towers for p in tower.parameters())
    texts = F.normalize(learned.identity(torch.arange(6)), dim=1)
    own = (spoken.projected @ texts.T).argmax(1) == rows
    assert own.float().mean() > 0.9


def test_tuning_depends_on_the_seed_alone(frozen_clip, features, rows, tmp_path):
    first, second, other = (
        tuned(frozen_clip, features, rows, tmp_path / str(number), seed)[0].tokens
        for number, seed in enumerate((3, 3, 4))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_bank_holds_each_prompt(learned):
    identity, part = bank_texts(learned, identities=6, parts=len(LIP20))
    assert identity.shape == (6, learned.identity(torch.tensor([0])).shape[1])
    assert part.shape == (6, len(LIP20), identity.shape[1])
    for row in range(6):
        expected = learned.identity(torch.tensor([row]))[0]
        torch.testing.assert_close(identity[row], expected, rtol=1e-4, atol=1e-5)
        for number in range(0, len(LIP20), 3):
            expected = learned.part(torch.tensor([row]), torch.tensor([number]))[0]
            torch.testing.assert_close(part[row, number], expected, rtol=1e-4, atol=1e-5)
    assert not identity.requires_grad
    assert not part.requires_grad


def test_the_rate_is_one_cosine_after_a_warm_up(learned):
    settings = TuningSettings(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=4)
    optimizer = torch.optim.Adam(learned.parameters())
    rates = []
    for epoch in (0, 1, 40, 80):
        set_rate(optimizer, settings, epoch, 80)
        rates.append(optimizer.param_groups[0]["lr"])
    cosine = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi / 80))
    assert rates == pytest.approx([0.05 / 4, 1.05 / 4 * cosine, 0.6, 0.2])


@pytest.mark.parametrize("model", ["vit", "cnn"])
def test_one_rate_per_epoch_is_clip_reids_stage_1(golden_rates, model):
    expected = golden_rates[f"stage1_{model}"]
    settings = TuningSettings(
        schedule="per_epoch", learning_rate=3.5e-4, min_learning_rate=1e-6, warmup_epochs=5
    )
    epochs = len(expected)
    rates = [rate_at(settings, epoch + 0.5, epochs) for epoch in range(epochs)]
    assert rates == pytest.approx(expected, rel=1e-9, abs=0)
