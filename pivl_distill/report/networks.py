"""The trained networks of some runs, and their scores on the test split.

A teach or student run and its exports are one network: exports are matched by the SHA-256 of the
checkpoint. What is scored is the exported float32 file, because that is what runs on devices; the
checkpoint, if there is no such file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pivl_distill.app.targets import Evaluation
from pivl_distill.report.runs import ReportRun
from pivl_distill.retrieval.evaluation import score_crops
from pivl_distill.retrieval.reid_metrics import QueryScores
from pivl_distill.storage.filenames import FP32_FILE
from pivl_distill.storage.files import sha256


@dataclass(frozen=True)
class Network:
    """One trained network: the run that trained it, if it is among the runs, and its exports."""

    training: ReportRun | None
    exports: tuple[ReportRun, ...] = ()

    @property
    def run(self) -> ReportRun:
        """The run that trained it, else its first export."""
        return self.training or self.exports[0]

    @property
    def label(self) -> str:
        """Name for legends and tables."""
        return self.run.label

    @property
    def name(self) -> str:
        """Short name, for axes."""
        return self.run.name

    @property
    def target(self) -> Path | None:
        """The file that is scored: of the last export, else the checkpoint; None if both are gone.

        An export may have other camera embeddings (`--camera`) than the run that trained it.
        """
        files = [run.path / FP32_FILE for run in self.exports]
        exported = [file for file in files if file.is_file()]
        return exported[-1] if exported else self.run.checkpoint


def find_networks(runs: Sequence[ReportRun]) -> list[Network]:
    """Pair training runs with their exports, in the order of `runs`."""
    exports = [run for run in runs if run.kind == "export"]
    networks, paired = [], set()
    for run in runs:
        if run.kind == "export":
            continue
        digest = None if run.checkpoint is None else sha256(run.checkpoint)
        own = tuple(export for export in exports if digest in checkpoint_digests(export))
        paired |= {export.name for export in own}
        networks.append(Network(run, own))
    return networks + [Network(None, (run,)) for run in exports if run.name not in paired]


def checkpoint_digests(export: ReportRun) -> set[str]:
    """Return the SHA-256 of the checkpoint that an export was made from."""
    return set() if export.manifest is None else set(export.manifest.source.values())


@dataclass(frozen=True)
class ScoredNetwork:
    """A network with its test features and the scores of each query."""

    network: Network
    evaluation: Evaluation

    @property
    def label(self) -> str:
        """Name for legends and tables."""
        return self.network.label

    @cached_property
    def scores(self) -> QueryScores:
        """Scores of each query."""
        return score_crops(self.evaluation.features, self.evaluation.test)

    @property
    def valid_precision(self) -> np.ndarray:
        """Average precision of the valid queries: float64 [V]."""
        precision: np.ndarray = self.scores.average_precision[self.scores.valid]
        return precision
