"""The networks of a page with their last maps: to see inside, the checkpoint is needed.

The bare network of the checkpoint is the one that was exported; the gate of the export compared
both, so its maps are those of the exported file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pivl_distill.app.networks import load_map_layer
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.map_layer import MapLayer
from pivl_distill.report.blocks import LeftOutError
from pivl_distill.report.context import ReportContext
from pivl_distill.report.networks import Network, ScoredNetwork, checkpoint_digests
from pivl_distill.runs.run import Run
from pivl_distill.storage.files import sha256

MAX_NETWORKS = 4
"""Networks that are compared, for time and for width."""


@dataclass(frozen=True)
class OpenedNetwork:
    """A scored network, its bare checkpoint and the last layer of that with a map."""

    scored: ScoredNetwork
    model: EmbeddingModel
    layer: MapLayer

    @property
    def label(self) -> str:
        """Name for legends and tables."""
        return self.scored.label


def open_networks(context: ReportContext) -> tuple[list[OpenedNetwork], list[str]]:
    """Return the first `MAX_NETWORKS` networks that can be opened, and why others are left out.

    Raises LeftOutError, with the reasons, if there is none.
    """
    opened: list[OpenedNetwork] = []
    reasons = []
    for scored in context.require_scored():
        if len(opened) == MAX_NETWORKS:
            reasons.append(f"{scored.label} is left out: {MAX_NETWORKS} networks are compared.")
            continue
        try:
            opened.append(OpenedNetwork(scored, *load_map_layer(checkpoint_of(scored.network))))
        except PivlError as error:
            reasons.append(f"{scored.label} is left out: {error}")
    if not opened:
        raise LeftOutError(" ".join(reasons))
    return opened, reasons


def checkpoint_of(network: Network) -> Path:
    """Return the checkpoint of a network; PivlError if it is gone or was changed since."""
    if network.training is not None:
        path = network.training.checkpoint
    else:
        source = Run(network.run.path).metadata.get("source")
        path = None if source is None else Path(str(source))
    if path is None or not path.is_file():
        raise PivlError(f"The checkpoint of {network.run.path} is not there ({path}).")
    if network.training is None and sha256(path) not in checkpoint_digests(network.run):
        raise PivlError(f"{path} is not the checkpoint any more that was exported.")
    return path
