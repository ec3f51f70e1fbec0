"""Eq. 2 and every supported reading of Eq. 7 against loops over cells and texts."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.data.batches import DeviceArray
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.losses import identity_contrastive_loss
from teachers.image_features import ImageFeatures
from teachers.prompts import IdentityPrompts
from teachers.stage1_losses import (
    identity_loss,
    part_loss,
    pool_parts,
    prompt_losses,
    resolve_temperature,
)

CPU = torch.device("cpu")
SETTINGS = TuningSettings()
BATCH = np.array([2, 3, 8, 9, 0])
READINGS = [
    dict(
        zip(
            ("part_negatives", "part_positions", "part_weighting", "part_normalize", "background"),
            reading,
            strict=True,
        )
    )
    for reading in itertools.product(
        ("batch", "image"),
        ("cells", "pooled"),
        ("area", "class_balanced"),
        (True, False),
        ("include", "ignore"),
    )
]


@pytest.fixture(scope="module")
def exact(features) -> ImageFeatures:
    """Distinct features in double precision; some cells of crop 3 and all of crop 9 are unknown."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(features.cells.values.shape, dtype=torch.float64, generator=generator)
    parts = features.parts.clone()
    parts[3, ::5] = IGNORE
    parts[9] = IGNORE
    cells = features.cells.values.double() + 0.2 * noise
    return ImageFeatures(features.projected.double(), DeviceArray(cells.numpy(), CPU), parts)


@pytest.fixture
def learned(frozen_clip) -> IdentityPrompts:
    text = copy.deepcopy(frozen_clip.text).double()
    prompts = PromptSettings(learned_tokens=2, init_std=0.5)
    generator = torch.Generator().manual_seed(0)
    return IdentityPrompts(text, prompts, 6, LIP20, generator).double()


def test_identity_loss_equals_equation_2(learned, exact, rows):
    batch = np.array([0, 1, 8, 9, 20, 22])
    images, texts = exact.projected[batch], learned.identity(torch.tensor([0, 2, 5]))
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    unit = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    for normalize, pair in ((True, unit), (False, (images, texts))):
        settings = SETTINGS.model_copy(update={"identity_normalize": normalize})
        loss = identity_loss(learned, exact, rows, batch, settings)
        torch.testing.assert_close(loss, identity_contrastive_loss(*pair, owner, 0.07))


@pytest.mark.parametrize(
    ("part_epochs_train", "terms"), [("both", {"identity", "part"}), ("part", {"part"})]
)
def test_part_loss_is_added_from_the_first_part_epoch(
    learned, exact, rows, part_epochs_train, terms
):
    settings = SETTINGS.model_copy(
        update={"part_epochs_train": part_epochs_train, "identity_epochs": 6, "part_epochs": 6}
    )
    args = learned, exact, rows, BATCH, settings
    for epoch, expected in ((0, {"identity"}), (5, {"identity"}), (6, terms), (11, terms)):
        assert prompt_losses(*args, LIP20, epoch).keys() == expected
    losses = prompt_losses(*args, LIP20, 6)
    torch.testing.assert_close(losses["part"], part_loss(*args, LIP20))
    if "identity" in terms:
        torch.testing.assert_close(losses["identity"], identity_loss(*args))


def part_loss_by_loops(learned, features, rows, settings) -> Tensor:
    """Return Eq. 7 by loops over cells, with negatives from the batch or from the image."""

    def unit(x: Tensor) -> Tensor:
        return x / x.norm() if settings.part_normalize else x

    scopes: dict[int, dict[tuple[int, int], list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for crop in BATCH.tolist():
        scope = crop if settings.part_negatives == "image" else 0
        of_part: dict[int, list[Tensor]] = defaultdict(list)
        for cell, part in zip(
            features.cells.values[crop], features.parts[crop].tolist(), strict=True
        ):
            ignored = settings.background == "ignore" and part == LIP20.background
            if part != IGNORE and not ignored:
                of_part[part].append(unit(cell))
        for part, cells in of_part.items():
            if settings.part_positions == "pooled":  # each cell becomes the mean of its part
                cells = [unit(sum(cells) / len(cells))] * len(cells)
            scopes[scope][int(rows[crop]), part] += cells

    loss, weights = 0.0, 0.0
    for of_pair in scopes.values():
        text_of = {
            (row, part): unit(learned.part(torch.tensor([row]), torch.tensor([part]))[0])
            for row, part in of_pair
        }
        texts = torch.stack(list(text_of.values()))
        all_cells = torch.stack([cell for cells in of_pair.values() for cell in cells])
        for pair, cells in of_pair.items():
            weight = len(cells) if settings.part_weighting == "area" else 1
            weights += weight
            to_all = (all_cells @ text_of[pair] / settings.part_temperature).logsumexp(0)
            for cell in cells:
                own = cell @ text_of[pair] / settings.part_temperature
                to_texts = (texts @ cell / settings.part_temperature).logsumexp(0)
                loss = loss + weight / len(cells) * (to_texts + to_all - 2 * own)
    return loss / weights


@pytest.mark.parametrize(
    "reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values()))
)
def test_part_loss_equals_equation_7_in_each_reading(learned, exact, rows, reading):
    settings = SETTINGS.model_copy(update={**reading, "part_temperature": 0.3})
    losses = (
        part_loss(learned, exact, rows, BATCH, settings, LIP20),
        part_loss_by_loops(learned, exact, rows, settings),
    )
    torch.testing.assert_close(*losses, rtol=0, atol=1e-9)
    gradients = [torch.autograd.grad(loss, learned.tokens)[0] for loss in losses]
    assert gradients[1].abs().max() > 1e-4
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_readings_give_different_losses(learned, exact, rows):
    values = [
        part_loss(learned, exact, rows, BATCH, SETTINGS.model_copy(update=r), LIP20).item()
        for r in READINGS
    ]
    assert len({round(value, 6) for value in values}) == len(READINGS)


def test_ignored_background_does_not_affect_the_loss(learned, exact, rows):
    changed = exact.cells.values.clone()
    changed[exact.parts == LIP20.background] = 1.0
    other = ImageFeatures(exact.projected, DeviceArray(changed.numpy(), CPU), exact.parts)
    for background, same in (("ignore", True), ("include", False)):
        settings = SETTINGS.model_copy(update={"background": background})
        losses = [part_loss(learned, f, rows, BATCH, settings, LIP20) for f in (exact, other)]
        assert torch.equal(*losses) == same, background


def test_part_loss_without_known_cells_is_zero_with_a_zero_gradient(learned, exact, rows):
    unlabelled = ImageFeatures(exact.projected, exact.cells, torch.full_like(exact.parts, IGNORE))
    loss = part_loss(learned, unlabelled, rows, np.arange(8), SETTINGS, LIP20)
    loss.backward()
    assert loss.item() == 0
    assert learned.tokens.grad is not None
    assert not learned.tokens.grad.any()


def test_part_temperature_clip_is_clips_own(frozen_clip):
    settings = resolve_temperature(TuningSettings(part_temperature="clip"), frozen_clip)
    expected = 1 / frozen_clip.logit_scale.exp().item()
    assert settings.part_temperature == pytest.approx(expected)
    assert resolve_temperature(SETTINGS, frozen_clip) is SETTINGS


def test_parts_are_pooled_over_known_cells():
    cells = torch.arange(8.0).view(1, 4, 2)
    part, known = torch.tensor([[2, 0, 2, 2]]), torch.tensor([[True, True, True, False]])
    pooled = pool_parts(cells, part, known, parts=3)
    assert pooled.tolist() == [[[2, 3], [0, 0], [2, 3]]]


@pytest.mark.parametrize("reading", READINGS[:: len(READINGS) // 4])
def test_losses_never_synchronise_with_the_device(exact, rows, frozen_clip, reading):
    """On the meta device, reading a value raises."""
    meta = torch.device("meta")
    text = copy.deepcopy(frozen_clip.text).to(meta)
    learned = IdentityPrompts(text, PromptSettings(), 6, LIP20, torch.Generator()).to(meta)
    cells = DeviceArray(exact.cells.values.numpy(), meta)
    features = ImageFeatures(exact.projected.float().to(meta), cells, exact.parts)
    settings = SETTINGS.model_copy(update={**reading, "identity_epochs": 0})
    losses = prompt_losses(learned, features, rows, BATCH, settings, LIP20, epoch=0)
    torch.stack(list(losses.values())).sum().backward()
    assert losses.keys() == {"identity", "part"}
    assert learned.tokens.grad is not None
    assert learned.tokens.grad.shape == (6, 4, text.width)
