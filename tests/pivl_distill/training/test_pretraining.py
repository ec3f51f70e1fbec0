"""The shared pretraining loop: batches, learning rate, clipping, options and metadata."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pivl_distill.errors import DivergenceError
from pivl_distill.training.pretraining import (
    MAX_GRAD_NORM,
    Recipe,
    learning_rate_at,
    make_optimizer,
    pass_batches,
    pretrain,
    pretraining_options,
)

RECIPE = Recipe(
    seed=1,
    crops=10,
    cameras=2,
    passes=2,
    batch_size=4,
    learning_rate=4e-3,
    weight_decay=0.0,
    warmup_steps=100,
)


def test_learning_rate_warms_up_and_decays_to_a_hundredth() -> None:
    assert learning_rate_at(RECIPE, 0, 1000) == RECIPE.learning_rate / RECIPE.warmup_steps
    assert learning_rate_at(RECIPE, 999, 1000) == RECIPE.learning_rate * 0.01


def test_each_pass_drops_its_last_incomplete_batch() -> None:
    batches = pass_batches(RECIPE, np.random.default_rng(0))
    assert batches.shape == (4, 4)
    for one_pass in (batches[:2], batches[2:]):
        assert len(np.unique(one_pass)) == 8


def test_batches_continue_into_the_next_pass_and_passes_may_be_fractional() -> None:
    recipe = replace(RECIPE, passes=1.5)
    batches = pass_batches(recipe, np.random.default_rng(0), drop_last=False)
    assert batches.shape == (3, 4)
    assert len(np.unique(batches.ravel()[:10])) == 10


@pytest.mark.parametrize("drop_last", [True, False])
def test_zero_passes_give_no_batches(drop_last: bool) -> None:
    recipe = replace(RECIPE, passes=0)
    batches = pass_batches(recipe, np.random.default_rng(0), drop_last=drop_last)
    assert batches.shape == (0, 4)


def test_each_batch_is_one_step_on_the_sum_of_the_terms_at_the_scheduled_rate() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    batches_of_steps, expected = [], 0.0

    def loss_terms(batch: np.ndarray) -> dict[str, torch.Tensor]:
        batches_of_steps.append(batch.tolist())
        return {"one": network.weight.sum(), "two": 2 * network.weight.sum()}

    batches = np.arange(8).reshape(2, 4)
    pretrain("Training", loss_terms, batches, optimizer, RECIPE)
    expected = -3 * sum(learning_rate_at(RECIPE, step, 2) for step in range(2))
    assert batches_of_steps == batches.tolist()
    assert network.weight.item() == pytest.approx(expected, rel=1e-6)


def test_training_in_two_parts_equals_one_run() -> None:
    weights = []
    for parts in ([None], [range(1), range(1, 3)]):
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        optimizer = make_optimizer(network, RECIPE)
        for part in parts:
            pretrain(
                "Training",
                lambda batch, network=network: {"loss": batch.sum() * network.weight.sum()},
                np.arange(12).reshape(3, 4),
                optimizer,
                RECIPE,
                only=part,
            )
        weights.append(network.weight.item())
    assert weights[0] == weights[1] != 0


def test_gradients_of_the_named_parameters_are_clipped_together() -> None:
    network = nn.Linear(2, 2, bias=False)
    optimizer = make_optimizer(network, RECIPE)
    parameters = list(network.parameters())
    pretrain(
        "Training",
        lambda batch: {"loss": 100 * network.weight.sum()},
        np.zeros((1, 4), int),
        optimizer,
        RECIPE,
        clipped=parameters,
    )
    assert parameters[0].grad.norm().item() == pytest.approx(MAX_GRAD_NORM, rel=1e-4)


def test_options_default_to_the_recipe(tmp_path: Path) -> None:
    options = []

    @click.command()
    @pretraining_options(RECIPE, tmp_path)
    def command(passes: int, crops: int, out: Path | None) -> None:
        options.append((passes, crops, out))

    CliRunner().invoke(command, [], catch_exceptions=False)
    CliRunner().invoke(
        command, ["--passes", "3", "--crops", "5", "--out", "x"], catch_exceptions=False
    )
    assert options == [(RECIPE.passes, RECIPE.crops, None), (3, 5, Path("x"))]


def test_metadata_hold_the_recipe_and_what_was_measured() -> None:
    assert RECIPE.metadata(accuracy=0.5) == {"recipe": asdict(RECIPE), "accuracy": 0.5}


def test_pretraining_stops_at_the_first_loss_that_is_not_finite() -> None:
    network, seen = nn.Linear(1, 1), []

    def loss_terms(batch: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(batch)
        return {"loss": network(torch.ones(1, 1)).sum() * (torch.nan if len(seen) == 2 else 1)}

    batches = pass_batches(RECIPE, np.random.default_rng(0))
    with pytest.raises(DivergenceError, match="Pretraining it diverged in step 2 of 4: the loss"):
        pretrain("Pretraining it", loss_terms, batches, make_optimizer(network, RECIPE), RECIPE)
    assert len(seen) == 2
