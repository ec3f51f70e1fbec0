"""Validation during training: when, what is logged, and the best network."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pivl_distill.config import Stage2Settings
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, evaluate_model
from pivl_distill.runs import progress
from pivl_distill.runs.run import Run
from pivl_distill.training import validation
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.validation import Validation
from stopped_runs import Killed, call_before_step, kill_process, read_metrics
from stubs import MapStub

SETTINGS = Stage2Settings(
    epochs=5, identities_per_batch=3, crops_per_identity=2, evaluate_every=2, average_decay=0.5
)


@pytest.fixture
def held_out(band_store: CropStore) -> QueryGalleryCrops:
    """Other noise on the same bands, seen by two cameras."""
    noise = np.random.default_rng(1).integers(0, 40, band_store.crops.shape)
    crops = np.clip(band_store.crops.astype(int) + noise, 0, 255).astype(np.uint8)
    camids = np.arange(len(crops)) % 2
    gallery = CropStore(crops, None, band_store.pids, camids)
    rows = slice(0, None, 3)
    return QueryGalleryCrops(
        CropStore(crops[rows], None, gallery.pids[rows], camids[rows]), gallery
    )


@pytest.mark.parametrize(
    ("every", "due"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])]
)
def test_evaluations_are_every_n_epochs_and_after_the_last(held_out, every, due) -> None:
    settings = SETTINGS.model_copy(update={"evaluate_every": every})
    watched = Validation(held_out, settings)
    assert [epoch for epoch in range(1, 6) if watched.is_due(epoch)] == due


def trained(band_store, held_out, folder: Path, **changes: object):
    settings = SETTINGS.model_copy(update=changes)
    run, network = Run(folder), MapStub(8, 6)
    folder.mkdir(exist_ok=True)
    with run.progress.session("student"):
        watched = Validation(held_out, settings)
        model = train(network, band_store, Supervision(), settings, 0, run, "Training", watched)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return network, model, [json.loads(line) for line in lines]


def test_scores_are_logged_and_training_is_not_changed(band_store, held_out, tmp_path) -> None:
    network, model, lines = trained(band_store, held_out, tmp_path / "with")
    assert [line["epoch"] for line in lines if "val_mAP" in line] == [2, 4, 5]
    result = evaluate_model(model, held_out)
    assert lines[-1]["val_mAP"] == round(result.mAP, 5)
    assert lines[-1]["val_rank1"] == round(result.rank(1), 5)
    rarely, _, _ = trained(band_store, held_out, tmp_path / "rarely", evaluate_every=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, rarely.state_dict()[name]), name


@pytest.fixture
def scripted_scores(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Tensor]]:
    """Score epochs 1 to 5 with .1, .5, .3, .5 and .2; return the weights that were evaluated."""
    scores, evaluated = (0.1, 0.5, 0.3, 0.5, 0.2), {}
    evaluate = Validation.evaluate

    def scripted(self: Validation, model: EmbeddingModel, epoch: int) -> dict[str, float]:
        result = RetrievalResult(scores[epoch - 1], np.ones(10), 0.0, 1, 0)
        evaluated[epoch] = copy.deepcopy(model.network.state_dict())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validation, "evaluate_model", lambda *_: result)
            return evaluate(self, model, epoch)

    monkeypatch.setattr(Validation, "evaluate", scripted)
    return evaluated


BEST = {"evaluate_every": 1, "keep_best": True}


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_first_best_network_is_returned(
    band_store, held_out, tmp_path, scripted_scores, decay
) -> None:
    changes = {**BEST, "average_decay": decay}
    network, model, lines = trained(band_store, held_out, tmp_path / "run", **changes)
    assert [line["val_mAP"] for line in lines] == [0.1, 0.5, 0.3, 0.5, 0.2]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, scripted_scores[2][name]), name
    assert not torch.equal(model.network[0].weight, network.encoder.weight)
    assert not model.network.training


def test_without_keep_best_the_last_network_is_returned(
    band_store, held_out, tmp_path, scripted_scores
) -> None:
    _, model, _ = trained(band_store, held_out, tmp_path / "run", evaluate_every=1)
    assert torch.equal(model.network[0].weight, scripted_scores[5]["0.weight"])


@pytest.mark.parametrize("killed_at", [1, 10, 13, 17])
def test_resume_keeps_the_best_and_the_average(
    band_store, held_out, tmp_path, scripted_scores, monkeypatch, killed_at
) -> None:
    """There are 17 steps; the state is saved after each of them."""
    monkeypatch.setattr(progress, "SAVE_PERIOD_S", 0.0)
    expected = trained(band_store, held_out, tmp_path / "uninterrupted", **BEST)
    with call_before_step(killed_at, kill_process), pytest.raises(Killed):
        trained(band_store, held_out, tmp_path / "run", **BEST)
    network, model, _ = trained(band_store, held_out, tmp_path / "run", **BEST)
    for name, value in expected[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    for name, value in expected[1].network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "uninterrupted")
