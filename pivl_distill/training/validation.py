"""Validation during training: scores on held-out identities, and the best network so far."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from pivl_distill.config import Stage2Settings
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, evaluate_model


class Validation:
    """Evaluates a network every `evaluate_every` epochs and after the last one."""

    def __init__(self, crops: QueryGalleryCrops, settings: Stage2Settings) -> None:
        self.crops, self.settings = crops, settings
        self.best: dict[str, Any] = {"mAP": -1.0, "epoch": 0, "network": {}}
        """Score, epoch and weights of the best network, if `keep_best` is set."""

    def is_due(self, epoch: int) -> bool:
        """Return whether to evaluate after `epoch`, counted from 1."""
        every = self.settings.evaluate_every
        return epoch == self.settings.epochs or (every > 0 and epoch % every == 0)

    def evaluate(self, model: EmbeddingModel, epoch: int) -> dict[str, float]:
        """Return the metrics of a network after `epoch`, and remember it if it is the best."""
        result = evaluate_model(model, self.crops)
        if self.settings.keep_best and result.mAP > self.best["mAP"]:
            network = copy.deepcopy(model.network.state_dict())
            self.best = {"mAP": result.mAP, "epoch": epoch, "network": network}
        return {"val_mAP": round(result.mAP, 5), "val_rank1": round(result.rank(1), 5)}

    def best_model(self, model: EmbeddingModel) -> EmbeddingModel:
        """Return `model` with the best weights; unchanged without `keep_best`."""
        if not self.settings.keep_best:
            return model
        network = copy.deepcopy(model.network)
        network.load_state_dict(self.best["network"])
        return replace(model, network=network)

    def state_dict(self) -> dict[str, Any]:
        """Return the best network so far."""
        return self.best

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best network so far."""
        self.best = state
