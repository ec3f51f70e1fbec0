"""Training ends at the first value that is not finite, and warns of growth and collapse once."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pivl_distill.data.store import CropStore
from pivl_distill.errors import DivergenceError
from pivl_distill.runs.run import Run
from pivl_distill.training.divergence import LossWatch
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from small_run import SETTINGS, STEPS_PER_EPOCH, small_network

CAUSES = {"stage2.learning_rate": 5.0, "stage2.precision": "auto"}


def watch() -> LossWatch:
    return LossWatch("Training (stage reid)", CAUSES)


def report(watch: LossWatch, where: str = "step 1", **values: float) -> None:
    watch.add({name: torch.tensor(value) for name, value in values.items()}, where)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_ends_training_with_its_causes(value):
    with pytest.raises(DivergenceError) as error:
        report(watch(), "epoch 1 of 3, step 2 of 4", identity=1.0, triplet=value)
    assert "Training (stage reid) diverged in epoch 1 of 3, step 2 of 4" in str(error.value)
    assert f"the loss term 'triplet' is {value} (besides it: identity 1)" in str(error.value)
    assert "stage2.learning_rate (now 5.0), stage2.precision (now auto)" in str(error.value)
    assert error.value.setting == "stage2.learning_rate"


def test_a_gradient_that_is_not_finite_ends_training_too():
    with pytest.raises(DivergenceError, match="the 'gradient_norm' is inf"):
        report(watch(), identity=1.0, gradient_norm=math.inf)


def test_an_exploding_term_is_warned_of_once(caplog):
    watched = watch()
    report(watched, identity=3.0, align=0.01, gradient_norm=1.0, accuracy=0.0)
    report(watched, identity=29.0, align=9.9, gradient_norm=1e6, accuracy=1.0)
    assert caplog.text == ""
    report(watched, "epoch 2, step 5", identity=31.0, align=9.9)
    report(watched, "epoch 2, step 6", identity=3.1e9, align=9e9)
    (record,) = caplog.records
    message = record.getMessage()
    assert "epoch 2, step 5: the loss term 'identity' has grown from 3 to 31" in message
    assert "set stage2.learning_rate lower (now 5.0)" in message


def test_features_that_collapse_are_warned_of_once(caplog):
    watched = watch()
    watched.end_epoch({"feature_spread": 0.02}, 1)
    watched.end_epoch({"identity": 1.0}, 2)
    assert caplog.text == ""
    for epoch in (3, 4):
        watched.end_epoch({"feature_spread": 1e-5}, epoch)
    (record,) = caplog.records
    assert "epoch 3: the features of all crops in a batch are nearly equal" in record.getMessage()


def test_training_stops_in_the_step_that_diverges(band_store, tmp_path, monkeypatch):
    """The encoder is broken before the third step of the second epoch."""
    run, steps, step = Run.create("student", "", tmp_path / "run"), iter(range(1, 99)), None
    original = Stage2Trainer.step

    def broken_step(self, *args):
        nonlocal step
        step = next(steps)
        if step == STEPS_PER_EPOCH + 3:
            self.network.encoder.weight.data.fill_(torch.nan)
        return original(self, *args)

    monkeypatch.setattr(Stage2Trainer, "step", broken_step)
    message = (
        r"Training \(stage reid\) diverged in epoch 2 of 3, step 3 of 4: the loss term 'identity'"
    )
    with pytest.raises(DivergenceError, match=message):
        train(small_network(), band_store, Supervision(), SETTINGS, 0, run, "Training")
    assert step == STEPS_PER_EPOCH + 3
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


def test_equal_crops_give_a_warning_within_an_epoch(band_store, tmp_path, caplog):
    grey = CropStore(np.full_like(band_store.crops, 128), None, band_store.pids, band_store.camids)
    augment = SETTINGS.augment.model_copy(
        update={"pad_px": 0, "erase_probability": 0.0, "flip_probability": 0.0}
    )
    settings = SETTINGS.model_copy(update={"epochs": 1, "augment": augment})
    run, network = Run.create("student", "", tmp_path / "run"), small_network()
    network.dropout.p = 0.0
    train(network, grey, Supervision(), settings, 0, run, "Training")
    assert "features of all crops in a batch are nearly equal" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_step_is_examined_after_the_next_without_waiting():
    watched = watch()
    values = [torch.tensor(value, device="cuda") for value in (1.0, math.nan)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        watched.add({"identity": values[0]}, "step 1")
        watched.add({"identity": values[1]}, "step 2")
        with pytest.raises(DivergenceError, match="step 2"):
            watched.flush()
    finally:
        torch.cuda.set_sync_debug_mode("default")
