"""What all sections of a page work from: the runs, their networks and test data, and settings.

Long computations are done once, when the first section asks for their result.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill.app.targets import evaluate_target
from pivl_distill.config import DataSettings, DeviceChoice
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.images import read_crop
from pivl_distill.data.part_maps import find_map, read_map
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.report.blocks import LeftOutError, Picture
from pivl_distill.report.networks import Network, ScoredNetwork, find_networks
from pivl_distill.report.pictures import Heads, Pictures
from pivl_distill.report.runs import ReportRun, workspace_runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportSettings:
    """How a page is made.

    `spec` is the data set to score on (default: that of the last run), `crops` whether photographs
    are shown, `heads` whether heads are pixelated on them.
    """

    spec: str | None = None
    crops: bool = True
    heads: Heads = "auto"
    device: DeviceChoice = "auto"
    cached: bool = True


class ReportContext:
    """The input of every section."""

    def __init__(self, runs: Sequence[ReportRun], settings: ReportSettings) -> None:
        self.runs = list(runs)
        self.settings = settings
        self.networks = find_networks(self.runs)

    def runs_of(self, kind: str) -> list[ReportRun]:
        """The runs of one kind: teach, student or export."""
        return [run for run in self.runs if run.kind == kind]

    @cached_property
    def workspace(self) -> list[ReportRun]:
        """The runs of the page and all other finished runs in `runs/`."""
        return workspace_runs(self.runs)

    @cached_property
    def data(self) -> DataSettings:
        """Settings of the data set that networks are scored on."""
        own = self.networks[-1].run.data
        spec = self.settings.spec
        return own if spec in (None, own.spec) else DataSettings(spec=str(spec))

    @cached_property
    def _scored(self) -> tuple[list[ScoredNetwork], list[str]]:
        scored, reasons = [], []
        for network in self.networks:
            try:
                scored.append(self._score(network))
            except PivlError as error:
                logger.warning(f"{network.label} is not scored: {error}")
                reasons.append(f"{network.label} is not scored: {error}")
        return scored, reasons

    @property
    def scored(self) -> list[ScoredNetwork]:
        """The networks that could be scored on the test split of `data`."""
        return self._scored[0]

    @property
    def not_scored(self) -> list[str]:
        """A sentence for each network that could not be scored."""
        return self._scored[1]

    def require_scored(self) -> list[ScoredNetwork]:
        """Return `scored`; raise LeftOutError with the reasons if it is empty."""
        if not self.scored:
            raise LeftOutError(" ".join(self.not_scored))
        return self.scored

    def _score(self, network: Network) -> ScoredNetwork:
        own, target = network.run.data, network.target
        if target is None:
            raise PivlError(f"{network.run.path} has neither a checkpoint nor an exported file.")
        if self.settings.spec is None and own.spec != self.data.spec:
            raise PivlError(f"it was trained on {own.spec}, not on {self.data.spec}; use --data.")
        spec, cached, device = self.data.spec, self.settings.cached, self.settings.device
        return ScoredNetwork(network, evaluate_target(target, spec, cached=cached, device=device))

    @cached_property
    def dataset(self) -> ReIDDataset:
        """The data set of `data`, with its part maps; PivlError if it cannot be read."""
        return load_dataset(self.data.spec, self.data.parsing)

    @cached_property
    def _maps_folder(self) -> Path | None:
        """The folder of part maps, which may hold maps of query and gallery too."""
        folder = self.data.parsing or self.dataset.root / "parsing"
        return folder if folder.is_dir() else None

    def part_map(self, record: Record, size_hw: tuple[int, int]) -> np.ndarray | None:
        """Return the part map uint8 [H, W] of a record of any split; None if it has none.

        Its classes are those of `dataset.vocabulary`.
        """
        vocabulary, path = self.dataset.vocabulary, record.parsing
        if vocabulary is None:
            return None
        if path is None and self._maps_folder is not None:
            path = find_map(self._maps_folder, self.dataset.relative(record.path), flat=False)
        return None if path is None else read_map(path, size_hw, vocabulary)

    @cached_property
    def pictures(self) -> Pictures:
        """Makes the pictures of the page, as the settings allow."""
        synthetic, heads = self.dataset.synthetic, self.settings.heads
        pixelated = heads == "pixelated" or (heads == "auto" and not synthetic)
        return Pictures(self.settings.crops, pixelated, synthetic, self.dataset.vocabulary)

    def crop_picture(self, record: Record, crop: np.ndarray, alt: str, **options: Any) -> Picture:
        """Return the picture of a record's crop uint8 [H, W, 3], its head as the settings say.

        `options` are those of `Pictures.encode`. Raises LeftOutError if there are no photographs.
        """
        self.pictures.require()
        size_hw = (crop.shape[0], crop.shape[1])
        part_map = self.part_map(record, size_hw) if self.pictures.pixelated else None
        return self.pictures.encode(self.pictures.protect(crop, part_map), alt, **options)

    def record_picture(self, record: Record, alt: str, **options: Any) -> Picture:
        """Return the picture of a record of any split, read from its file; see `crop_picture`."""
        self.pictures.require()
        return self.crop_picture(record, read_crop(record.path, self.data.size_hw), alt, **options)
