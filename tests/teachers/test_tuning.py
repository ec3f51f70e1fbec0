"""Stage 1: what is encoded, what counts as present, that prompts learn and that CLIP does not."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.embedding import normalize_crops
from pivl_distill.losses import identity_contrast, part_contrast
from pivl_distill.runs import Run
from teachers.prompts import IdentityPrompts
from teachers.tuning import (
    FrozenFeatures,
    bank_texts,
    encode_crops,
    epoch_batches,
    identity_loss,
    part_loss,
    present_parts,
    prompt_losses,
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
    return encode_crops(frozen_clip, band_store, LIP20, SETTINGS)


@pytest.fixture(scope="module")
def rows(band_store) -> torch.Tensor:
    return torch.from_numpy(np.unique(band_store.pids, return_inverse=True)[1])


@pytest.fixture
def learned(frozen_clip) -> IdentityPrompts:
    generator = torch.Generator().manual_seed(0)
    return IdentityPrompts(frozen_clip.text, PROMPTS, 6, LIP20, generator)


def test_crops_are_encoded_in_their_order(features, frozen_clip, band_store):
    assert features.projected.shape == (24, frozen_clip.image.dim)
    assert features.cells.shape == (24, 16 * 8, frozen_clip.image.dim)
    torch.testing.assert_close(features.cells.norm(dim=2), torch.ones(24, 128))
    crop = (torch.from_numpy(band_store.crops[17]).permute(2, 0, 1) / 255)[None]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (frozen_clip.mean, frozen_clip.std))
    tokens = frozen_clip.image.joint_tokens((crop - mean) / std)[0]
    torch.testing.assert_close(features.projected[17], tokens[0], rtol=1e-4, atol=1e-5)
    unit = F.normalize(tokens[1:], dim=1)
    torch.testing.assert_close(features.cells[17], unit, rtol=1e-4, atol=1e-5)


def test_cells_may_come_by_the_value_path(features, frozen_clip, band_store):
    settings = SETTINGS.model_copy(update={"cell_features": "value"})
    values = encode_crops(frozen_clip, band_store, LIP20, settings)
    torch.testing.assert_close(values.projected, features.projected)
    crop = torch.from_numpy(band_store.crops[3:4])
    tokens = frozen_clip.image.value_tokens(
        normalize_crops(crop, frozen_clip.mean, frozen_clip.std)
    )
    unit = F.normalize(tokens[0, 1:], dim=1)
    torch.testing.assert_close(values.cells[3], unit, rtol=1e-4, atol=1e-5)


def test_cells_are_not_kept_where_no_part_is_tuned(features, frozen_clip, band_store):
    settings = SETTINGS.model_copy(update={"part_epochs": 0})
    bare = encode_crops(frozen_clip, band_store, LIP20, settings)
    assert bare.cells.numel() == 0
    assert torch.equal(bare.projected, features.projected)
    assert torch.equal(bare.parts, features.parts)


def test_the_pixel_at_its_centre_may_name_a_cell(frozen_clip, band_store):
    noise = np.random.default_rng(0).integers(0, 20, band_store.maps.shape, dtype=np.uint8)
    store = dataclasses.replace(band_store, maps=noise)
    settings = SETTINGS.model_copy(update={"cell_labels": "nearest"})
    parts = encode_crops(frozen_clip, store, LIP20, settings).parts
    assert torch.equal(parts, torch.from_numpy(noise[:, 4::8, 4::8]).long().flatten(1))
    assert not torch.equal(parts, encode_crops(frozen_clip, store, LIP20, SETTINGS).parts)


def test_each_cell_has_the_part_of_its_pixels(features, band_store):
    centres = torch.from_numpy(band_store.maps[:, 4::8, 4::8]).flatten(1)
    assert torch.equal(features.parts, centres.long())


def test_more_crops_than_a_batch_and_no_maps(frozen_clip, band_store):
    twice = np.concatenate([band_store.crops] * 3)
    store = CropStore(twice, None, np.arange(72), np.zeros(72, int))
    features = encode_crops(frozen_clip, store, LIP20, SETTINGS)
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
    images, texts = features.projected[batch], learned.identity(torch.tensor([0, 2, 5]))
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    unit = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    for normalize, pair in ((True, unit), (False, (images, texts))):
        settings = SETTINGS.model_copy(update={"identity_normalize": normalize})
        loss = identity_loss(learned, features, rows, batch, settings)
        torch.testing.assert_close(loss, identity_contrast(*pair, owner, 0.07))
        loss.backward()


@pytest.mark.parametrize(
    ("part_epochs_train", "terms"), [("both", {"identity", "part"}), ("part", {"part"})]
)
def test_equation_8_is_the_sum_from_the_first_part_epoch_on(
    learned, features, rows, part_epochs_train, terms
):
    settings = SETTINGS.model_copy(update={"part_epochs_train": part_epochs_train})
    batch = np.array([0, 1, 8, 9])
    args = learned, features, rows, batch, settings
    for epoch, expected in ((0, {"identity"}), (5, {"identity"}), (6, terms), (11, terms)):
        assert prompt_losses(*args, LIP20, epoch).keys() == expected
    losses = prompt_losses(*args, LIP20, 6)
    torch.testing.assert_close(losses["part"], part_loss(*args, LIP20))
    if "identity" in terms:
        torch.testing.assert_close(losses["identity"], identity_loss(*args))


@pytest.mark.parametrize(("batches", "sizes"), [("pk", [8]), ("shuffle", [8, 8, 8])])
def test_batches_are_p_times_k_or_a_permutation(rows, batches, sizes):
    settings = SETTINGS.model_copy(update={"batches": batches})
    rng = np.random.default_rng(0)
    drawn = epoch_batches(rows.numpy(), settings, rng)
    assert {len(batch) for batch in drawn} == set(sizes)
    if batches == "shuffle":
        assert sorted(np.concatenate(drawn)) == list(range(24))
    else:
        assert all(len(set(rows[batch].tolist())) == 4 for batch in drawn)


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
        identity, part = bank_texts(hidden, torch.ones(6, len(LIP20), dtype=torch.bool))
        projected, cells = identity[rows], part[rows[:, None], features.parts]
        for texts in (projected, cells):
            texts += 0.1 * texts.std() * torch.randn(texts.shape, generator=generator)
    return FrozenFeatures(projected, F.normalize(cells, dim=2), features.parts)


def test_prompts_learn_and_clip_does_not(frozen_clip, spoken, rows, tmp_path):
    towers = frozen_clip.image, frozen_clip.text
    before = [copy.deepcopy(tower.state_dict()) for tower in towers]
    learned, metrics = tuned(frozen_clip, spoken, rows, tmp_path / "run")
    assert [line["epoch"] for line in metrics] == list(range(1, 13))
    assert all(line["stage"] == "prompts" for line in metrics)
    assert metrics[5]["identity"] < 0.9 * metrics[0]["identity"]
    assert all(line["part"] == 0 for line in metrics[:6])
    assert 0 < metrics[-1]["part"] < 0.95 * metrics[6]["part"]
    for tower, state in zip(towers, before, strict=True):
        for name, value in tower.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert all(p.grad is None for tower in towers for p in tower.parameters())
    texts = F.normalize(learned.identity(torch.arange(6)), dim=1)
    own = (F.normalize(spoken.projected, dim=1) @ texts.T).argmax(1) == rows
    assert own.float().mean() > 0.9


def test_tuning_depends_on_the_seed_alone(frozen_clip, features, rows, tmp_path):
    first, second, other = (
        tuned(frozen_clip, features, rows, tmp_path / str(number), seed)[0].tokens
        for number, seed in enumerate((3, 3, 4))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_bank_holds_each_prompt_of_a_part_that_was_seen(learned):
    present = torch.rand(6, len(LIP20), generator=torch.Generator().manual_seed(0)) < 0.4
    identity, part = bank_texts(learned, present)
    assert identity.shape == (6, learned.identity(torch.tensor([0])).shape[1])
    assert part.shape == (6, len(LIP20), identity.shape[1])
    for row in range(6):
        expected = learned.identity(torch.tensor([row]))[0]
        torch.testing.assert_close(identity[row], expected, rtol=1e-4, atol=1e-5)
        for number in range(len(LIP20)):
            expected = learned.part(torch.tensor([row]), torch.tensor([number]))[0]
            expected = expected * present[row, number]
            torch.testing.assert_close(part[row, number], expected, rtol=1e-4, atol=1e-5)
    assert not identity.requires_grad
    assert not part.requires_grad
    assert not identity.is_inference()  # stage 2 may learn from them as they are


def test_a_bank_of_identities_alone_has_no_part_text(learned):
    identity, part = bank_texts(learned, torch.zeros(6, len(LIP20), dtype=torch.bool))
    assert identity.abs().sum(1).all()
    assert not part.any()


def test_the_rate_is_one_cosine_after_a_warm_up(learned):
    settings = TuningSettings(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=4)
    optimizer = torch.optim.Adam(learned.parameters())
    rates = []
    for epoch in (0, 1, 40, 80):
        set_rate(optimizer, settings, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    cosine = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi / 80))
    assert rates == pytest.approx([0.05 / 4, 1.05 / 4 * cosine, 0.6, 0.2])


@pytest.mark.parametrize(("model", "parts"), [("vit", 0), ("cnn", 0), ("cnn", 20)])
def test_one_rate_per_epoch_is_clip_reids_stage_1(golden_rates, model, parts):
    expected = golden_rates[f"stage1_{model}"]
    settings = TuningSettings(
        schedule="per_epoch",
        learning_rate=3.5e-4,
        min_learning_rate=1e-6,
        warmup_epochs=5,
        identity_epochs=len(expected) - parts,
        part_epochs=parts,
    )
    rates = [rate_at(settings, epoch + 0.5) for epoch in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("schedule", ["smooth", "per_epoch"])
def test_the_part_epochs_may_have_a_cosine_of_their_own(schedule):
    settings = TuningSettings(
        learning_rate=1.0, min_learning_rate=0.0, warmup_epochs=2, restart=True, schedule=schedule
    )
    last = rate_at(settings, 59.0)
    assert last < 0.01 < 0.99 < rate_at(settings, 60.0) <= 1
    assert rate_at(settings, 0.0) < 0.6  # the warm-up is at the very beginning alone
    at = 69 if schedule == "per_epoch" else 70  # epochs of a rate each count from 1
    assert rate_at(settings, at) == pytest.approx(0.5)
    assert rate_at(settings, 79.0) < 0.02
    once = settings.model_copy(update={"restart": False})
    assert rate_at(once, 60.0) < 0.2
