"""Stage 1: what counts as present, that prompts learn and that CLIP does not."""

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


def test_a_part_is_present_where_any_crop_of_the_identity_shows_it():
    parts = torch.tensor([[0, 1], [5, IGNORE], [IGNORE, IGNORE], [9, 9]])
    present = present_parts(parts, torch.tensor([1, 1, 0, 2]), identities=4, parts=20)
    found = {row: present[row].nonzero().flatten().tolist() for row in range(4)}
    assert found == {0: [], 1: [0, 1, 5], 2: [9], 3: []}


def tuned(clip, features, rows, folder, seed: int = 0) -> tuple[IdentityPrompts, list[dict]]:
    run = Run.create("teach", "", folder)
    learned = tune_prompts(clip, features, rows, LIP20, PROMPTS, SETTINGS, seed, run)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return learned, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def spoken(frozen_clip, features, rows) -> ImageFeatures:
    """Features that a prompt can reach: the texts of hidden prompts, with some noise."""
    generator = torch.Generator().manual_seed(1)
    loud = PROMPTS.model_copy(update={"init_std": 1.0})
    hidden = IdentityPrompts(frozen_clip.text, loud, 6, LIP20, generator)
    with torch.no_grad():
        identity, part = encode_bank_texts(hidden, torch.ones(6, len(LIP20), dtype=torch.bool))
        projected, cells = identity[rows], part[rows[:, None], features.parts]
        for texts in (projected, cells):
            texts += 0.1 * texts.std() * torch.randn(texts.shape, generator=generator)
    cells = DeviceArray(F.normalize(cells, dim=2).numpy(), projected.device)
    return ImageFeatures(projected, cells, features.parts)


def test_prompts_learn_and_clip_does_not(frozen_clip, spoken, rows, tmp_path):
    encoders = frozen_clip.image, frozen_clip.text
    before = [copy.deepcopy(encoder.state_dict()) for encoder in encoders]
    learned, metrics = tuned(frozen_clip, spoken, rows, tmp_path / "run")
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
    own = (F.normalize(spoken.projected, dim=1) @ texts.T).argmax(1) == rows
    assert own.float().mean() > 0.9


def test_tuning_depends_on_the_seed_alone(frozen_clip, features, rows, tmp_path):
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
    assert not identity.is_inference()  # stage 2 may learn from them as they are


def test_a_bank_of_identities_alone_has_no_part_text(learned):
    identity, part = encode_bank_texts(learned, torch.zeros(6, len(LIP20), dtype=torch.bool))
    assert identity.abs().sum(1).all()
    assert not part.any()


def test_the_rate_is_one_cosine_after_a_warm_up(learned):
    settings = TuningSettings(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=4)
    optimizer = torch.optim.Adam(learned.parameters())
    rates = []
    for epoch in (0, 1, 40, 80):
        set_learning_rate(optimizer, settings, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    cosine = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi / 80))
    assert rates == pytest.approx([0.05 / 4, 1.05 / 4 * cosine, 0.6, 0.2])


@pytest.mark.parametrize(("model", "parts"), [("vit", 0), ("cnn", 0), ("cnn", 20)])
def test_one_rate_per_epoch_is_clip_reids_stage_1(golden_rates, model, parts):
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
    """The rate of each epoch of stage 1 as a configuration file asks for it."""
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
def test_presets_have_clip_reids_rates_of_stage_1(golden_rates, preset, model):
    assert preset_rates(preset) == pytest.approx(golden_rates[f"stage1_{model}"], rel=1e-9, abs=0)


@pytest.mark.parametrize("preset", ["paper", "paper_vit", "table3_b_p_f"])
def test_the_papers_presets_warm_up_alike_and_stretch_the_cosine(golden_rates, preset):
    """60 + 20 epochs are none of CLIP-ReID's lengths, but their warm-up is one of both."""
    rates = preset_rates(preset)
    assert len(rates) == 80
    assert rates[:4] == pytest.approx(golden_rates["stage1_cnn"][:4], rel=1e-9, abs=0)
    cosine = [1e-6 + (3.5e-4 - 1e-6) / 2 * (1 + np.cos(np.pi * e / 80)) for e in range(5, 81)]
    assert rates[4:] == pytest.approx(cosine, rel=1e-9, abs=0)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_per_epoch"])
def test_the_part_epochs_may_have_a_cosine_of_their_own(schedule):
    settings = TuningSettings(
        learning_rate=1.0,
        min_learning_rate=0.0,
        warmup_epochs=2,
        restart=True,
        lr_schedule=schedule,
    )
    last = learning_rate_at(settings, 59.0)
    assert last < 0.01 < 0.99 < learning_rate_at(settings, 60.0) <= 1
    assert learning_rate_at(settings, 0.0) < 0.6  # the warm-up is at the very beginning alone
    at = 69 if schedule == "cosine_per_epoch" else 70  # epochs of a rate each count from 1
    assert learning_rate_at(settings, at) == pytest.approx(0.5)
    assert learning_rate_at(settings, 79.0) < 0.02
    once = settings.model_copy(update={"restart": False})
    assert learning_rate_at(once, 60.0) < 0.2
