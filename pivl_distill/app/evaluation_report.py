"""What `pivl-distill evaluate` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pivl_distill.app.cross_test import cross_test
from pivl_distill.app.report import NOT_MEASURED, percent, retrieval_rows
from pivl_distill.app.targets import Evaluation
from pivl_distill.config import Preprocessing
from pivl_distill.console import summary, table
from pivl_distill.data.corruptions import STRENGTHS
from pivl_distill.distributed import process_group
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.robustness import CorruptedSplit, RobustnessCard
from pivl_distill.storage.files import write_json

SPLITS = {"query": "queries", "gallery": "gallery crops", "both": "queries and gallery crops"}
SHOWN_PAIRS = 20
"""Camera pairs that the table shows, the worst first."""


class Scored:
    """An evaluation whose scores are printed as they are computed, and written together."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.scores: dict[str, Any] = {
            "path": str(evaluation.path),
            "data": evaluation.spec,
            "retrieval": evaluation.result.summary(),
        }

    def print(self) -> None:
        """Print the scores of the crops as they are."""
        title = f"{self.evaluation.path} on {self.evaluation.spec}"
        summary(title, retrieval_rows(self.evaluation.result))

    def add_reranked(self) -> None:
        """Compute and print the scores after re-ranking."""
        result = self.evaluation.rerank()
        self.scores["reranked"] = result.summary()
        summary("After k-reciprocal re-ranking", retrieval_rows(result))

    def add_robustness(self, split: CorruptedSplit) -> None:
        """Compute and print the robustness card."""
        card = self.evaluation.robustness(split=split)
        self.scores["robustness"] = asdict(card)
        print_robustness(card)

    def add_gallery(self, old: Path, preprocessing: Preprocessing | None) -> None:
        """Compute and print the scores of the queries in the gallery of `old`."""
        scores = cross_test(self.evaluation, old, preprocessing)
        found = {
            "old → old": scores.old,
            "new → new": scores.new,
            "new → old": scores.cross,
        }
        self.scores["gallery"] = {"old": str(old)} | {
            name: result and result.summary() for name, result in found.items()
        }
        print_cross_test(self.evaluation.path, old, found)

    def write(self, path: Path) -> None:
        """Write all scores as JSON; of several processes, rank 0 does."""
        if not process_group.rank():
            write_json(path, self.scores)


def print_cross_test(new: Path, old: Path, scores: Mapping[str, RetrievalResult | None]) -> None:
    """Print mAP and Rank-1 of queries in galleries."""
    rows = [
        [name, NOT_MEASURED, "–"]
        if result is None
        else [name, percent(result.mAP), percent(result.rank(1))]
        for name, result in scores.items()
    ]
    table(f"Queries in galleries, new: {new}, old: {old}", ("", "mAP", "Rank-1"), rows)


def print_robustness(card: RobustnessCard) -> None:
    """Print mAP and Rank-1 by corruption and strength, and the worst camera pairs."""
    for title, score in (("mAP", "mAP"), ("Rank-1", "rank1")):
        rows = [["none", percent(getattr(card.clean, score)), *["–"] * len(STRENGTHS)]]
        for corruption, conditions in card.corruptions().items():
            shares = [getattr(row, score) for row in conditions]
            rows.append([corruption, *map(percent, [sum(shares) / len(shares), *shares])])
        rows.append(["mean", percent(getattr(card.mean(), score)), *["–"] * len(STRENGTHS)])
        columns = ("", "mean", *(f"strength {strength}" for strength in STRENGTHS))
        table(f"{title} with corrupted {SPLITS[card.split]}", columns, rows)
    _print_camera_pairs(card)


def _print_camera_pairs(card: RobustnessCard) -> None:
    """Print a row per camera pair with the corruption that costs it most; the worst first."""
    rows = []
    for pair in card.camera_pairs:
        means = {name: scores.mAP for name, scores in pair.corrupted.items()}
        worst, mean = min(means, key=means.__getitem__), sum(means.values()) / len(means)
        label = f"{pair.query_camera} → {pair.gallery_camera}"
        shares = map(percent, (pair.clean.mAP, mean, means[worst]))
        rows.append((mean, [label, pair.queries, *shares, worst]))
    if not rows:
        return
    rows.sort(key=lambda row: row[0])
    left = f", the worst {SHOWN_PAIRS} of {len(rows)}" if len(rows) > SHOWN_PAIRS else ""
    columns = ("query → gallery", "queries", "mAP", "mean corrupted", "worst", "corruption")
    table(f"Camera pairs{left}", columns, [cells for _, cells in rows[:SHOWN_PAIRS]])
