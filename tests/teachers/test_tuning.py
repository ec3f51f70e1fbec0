"""Stage 1: present parts, tuning of the prompts with CLIP frozen, and the learning rate."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivl_distill.config import PromptSettings, TeachConfig, TuningSettings, load_config
from pivl_distill.data.batches import DeviceArray
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import DivergenceError
from pivl_distill.runs.run import Run
from teachers import tuning
from teachers.image_features import ImageFeatures
from teachers.prompts import IdentityPrompts
from teachers.tuning import (
    encode_bank_texts,
    learning_rate_at,
    present_parts,
    set_learning_rate,
    tune_prompts,
)

SETTINGS = TuningSettings(
    identity_epochs=6, part_epochs=6, identities_per_batch=4, crops_per_identity=2, warmup_epochs=0
)
PROMPTS = PromptSettings(learned_tokens=2)


@pytest.fixture
def learned(frozen_clip) -> IdentityPrompts:
    generator = torch.Generator().manual_seed(0)
    return IdentityPrompts(frozen_clip.text, PROMPTS, 6, LIP20, generator)


def test_part_is_present_if_a_crop_of_the_identity_shows_it():
    parts = torch.tensor([[0, 1], [5, IGNORE], [IGNORE, IGNORE], [9, 9]])
    present = present_parts(parts, torch.tensor([1, 1, 0, 2]), identities=4, parts=20)
    present_of_row = {row: present[row].nonzero().flatten().tolist() for row in range(4)}
    assert present_of_row == {0: [], 1: [0, 1, 5], 2: [9], 3: []}


def tuned(clip, features, rows, folder, seed: int = 0) -> tuple[IdentityPrompts, list[dict]]:
    run = Run.create("teach", "", folder)
    learned = tune_prompts(clip, features, rows, LIP20, PROMPTS, SETTINGS, seed, run)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return learned, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def reachable_features(frozen_clip, features, rows) -> ImageFeatures:
    """Image features equal to noisy texts of other prompts, so that tuning can fit them."""
    generator = torch.Generator().manual_seed(1)
    wide_settings = PROMPTS.model_copy(update={"init_std": 1.0})
    target_prompts = IdentityPrompts(frozen_clip.text, wide_settings, 6, LIP20, generator)
    with torch.no_grad():
        identity, part = encode_bank_texts(
            target_prompts, torch.ones(6, len(LIP20), dtype=torch.bool)
        )
        projected, cells = identity[rows], part[rows[:, None], features.parts]
        for texts in (projected, cells):
            texts += 0.1 * texts.std() * torch.randn(texts.shape, generator=generator)
    cells = DeviceArray(F.normalize(cells, dim=2).numpy(), projected.device)
    return ImageFeatures(projected, cells, features.parts)


def test_tuning_changes_prompts_but_not_clip(frozen_clip, reachable_features, rows, tmp_path):
    encoders = frozen_clip.image, frozen_clip.text
    before = [copy.deepcopy(encoder.state_dict()) for encoder in encoders]
    learned, metrics = tuned(frozen_clip, reachable_features, rows, tmp_path / "run")
    assert [line["epoch"] for line in metrics] == list(range(1, 13))
    assert all(line["stage"] == "prompts" for line in metrics)
    assert metrics[5]["identity"] < 0.9 * metrics[0]["identity"]
    assert all("part" not in line for line in metrics[:6])
    assert 0 < metrics[-1]["part"] < 0.95 * metrics[6]["part"]
    for encoder, state in zip(encoders, before, strict=True):
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert all(p.grad is None for encoder in encoders for p in encoder.parameters())
    texts = F.normalize(learned.identity(torch.arange(6)), dim=1)
    is_nearest = (F.normalize(reachable_features.projected, dim=1) @ texts.T).argmax(1) == rows
    assert is_nearest.float().mean() > 0.9


def test_tuning_depends_only_on_the_seed(frozen_clip, features, rows, tmp_path):
    first, second, other = (
        tuned(frozen_clip, features, rows, tmp_path / str(number), seed)[0].tokens
        for number, seed in enumerate((3, 3, 4))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("chunk", [1, 2 * len(LIP20), 10_000])
def test_the_bank_holds_each_prompt_of_a_part_that_was_seen(learned, monkeypatch, chunk):
    monkeypatch.setattr(tuning, "PROMPTS_PER_CHUNK", chunk)
    present = torch.rand(6, len(LIP20), generator=torch.Generator().manual_seed(0)) < 0.4
    identity, part = encode_bank_texts(learned, present)
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
    assert not identity.is_inference()  # stage 2 can train with them


def test_bank_without_present_parts_has_zero_part_texts(learned):
    identity, part = encode_bank_texts(learned, torch.zeros(6, len(LIP20), dtype=torch.bool))
    assert identity.abs().sum(1).all()
    assert not part.any()


def test_learning_rate_is_one_cosine_with_a_warm_up(learned):
    settings = TuningSettings(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=4)
    optimizer = torch.optim.Adam(learned.parameters())
    rates = []
    for epoch in (0, 1, 40, 80):
        set_learning_rate(optimizer, settings, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    cosine = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi / 80))
    assert rates == pytest.approx([0.05 / 4, 1.05 / 4 * cosine, 0.6, 0.2])


@pytest.mark.parametrize(("model", "parts"), [("vit", 0), ("cnn", 0), ("cnn", 20)])
def test_cosine_per_epoch_equals_clip_reids_stage_1_rates(golden_rates, model, parts):
    expected = golden_rates[f"stage1_{model}"]
    settings = TuningSettings(
        lr_schedule="cosine_per_epoch",
        learning_rate=3.5e-4,
        min_learning_rate=1e-6,
        warmup_epochs=5,
        identity_epochs=len(expected) - parts,
        part_epochs=parts,
    )
    rates = [learning_rate_at(settings, epoch + 0.5) for epoch in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-9, abs=0)


def preset_rates(preset: str) -> list[float]:
    """Return the stage-1 learning rate of each epoch of a shipped configuration."""
    settings = load_config(TeachConfig, "teach", preset, {}).tuning
    epochs = settings.identity_epochs + settings.part_epochs
    return [learning_rate_at(settings, epoch + 0.5) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        ("clipreid_vit", "vit"),
        ("clipreid_vit_sie_olp", "vit"),
        ("clipreid_rn50", "cnn"),
        ("table3_b", "cnn"),
        ("table5_clipreid", "cnn"),
    ],
)
def test_presets_have_clip_reids_stage_1_rates(golden_rates, preset, model):
    assert preset_rates(preset) == pytest.approx(golden_rates[f"stage1_{model}"], rel=1e-9, abs=0)


@pytest.mark.parametrize("preset", ["paper", "paper_vit", "table3_b_p_f"])
def test_paper_presets_keep_clip_reids_warm_up_and_lengthen_its_cosine(golden_rates, preset):
    """With 60 + 20 epochs the cosine ends later than CLIP-ReID's; the warm-up is the same."""
    rates = preset_rates(preset)
    assert len(rates) == 80
    assert rates[:4] == pytest.approx(golden_rates["stage1_cnn"][:4], rel=1e-9, abs=0)
    cosine = [1e-6 + (3.5e-4 - 1e-6) / 2 * (1 + np.cos(np.pi * e / 80)) for e in range(5, 81)]
    assert rates[4:] == pytest.approx(cosine, rel=1e-9, abs=0)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_per_epoch"])
def test_restart_gives_the_part_epochs_a_second_cosine(schedule):
    settings = TuningSettings(
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_epochs=2,
        restart=True,
        lr_schedule=schedule,
    )
    last = learning_rate_at(settings, 59.0)
    assert last < 0.01 < 0.99 < learning_rate_at(settings, 60.0) <= 1
    assert learning_rate_at(settings, 0.0) < 0.6  # only the first cosine has a warm-up
    middle = 69 if schedule == "cosine_per_epoch" else 70  # cosine_per_epoch counts epochs from 1
    assert learning_rate_at(settings, middle) == pytest.approx(0.5)
    assert learning_rate_at(settings, 79.0) < 0.02
    without_restart = settings.model_copy(update={"restart": False})
    assert learning_rate_at(without_restart, 60.0) < 0.2


def test_tuning_stops_at_the_first_loss_that_is_not_finite(
    frozen_clip, features, rows, tmp_path, monkeypatch
):
    prompt_losses, steps = tuning.prompt_losses, []

    def broken_losses(*args):
        steps.append(args)
        losses = prompt_losses(*args)
        return losses | ({"part": losses["identity"] * torch.nan} if len(steps) == 2 else {})

    monkeypatch.setattr(tuning, "prompt_losses", broken_losses)
    message = r"Tuning prompts \(stage prompts\) diverged in epoch 1 of 12, step 2 of \d+: the loss"
    with pytest.raises(DivergenceError, match=message) as error:
        tuned(frozen_clip, features, rows, tmp_path / "run")
    assert len(steps) == 2
    assert "tuning.learning_rate (now 0.02)" in str(error.value)
