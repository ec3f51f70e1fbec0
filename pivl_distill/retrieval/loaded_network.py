"""A network that is ready to embed crops, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pivl_distill.data.records import Record
from pivl_distill.data.store import iterate_crops
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import all_gather
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction
from pivl_distill.vectors.space import VectorSpace

PROBES = 8
"""Crops of noise that show what a network's embeddings look like."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A checkpoint of ours, an exported file or a network of others, with its preprocessing."""

    path: Path
    model: EmbeddingModel
    """Preprocessing; the network itself too if `forward` is None."""
    forward: ForwardFunction | None = None
    """Runs a file; None: the network of `model`."""
    space: VectorSpace | None = None
    """Of the embeddings; None for exports of earlier versions."""

    @cached_property
    def probe(self) -> np.ndarray:
        """Embeddings float32 [8, F] of noise."""
        shape = (PROBES, *self.model.size_hw, 3)
        return self.embed(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    @property
    def dim(self) -> int:
        """F."""
        return self.probe.shape[1]

    @property
    def nonnegative(self) -> bool:
        """Whether no embedding has negative values, as where rectified maps are pooled."""
        return bool((self.probe >= 0).all())

    def embed_records(self, records: Sequence[Record], what: str = "training crops") -> np.ndarray:
        """Return the embeddings float32 [N, F], not normalised, of N records in order.

        Every process embeds its shard and receives all. Only a few hundred crops are in memory at
        a time; `what` names them in progress messages. Raises PivlError if one cannot be read, or
        if the network takes camera ids.
        """
        shard = process_group.nonempty_shard(len(records))
        embeddings = [
            torch.from_numpy(self.embed(crops))
            for crops in iterate_crops(records[shard], self.model.size_hw, what)
        ]
        return all_gather(torch.cat(embeddings), len(records)).numpy()

    @torch.inference_mode()
    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Return embeddings float32 [B, F] of crops uint8 RGB [B, H, W, 3] of the input size."""
        if self.model.cameras:
            raise PivlError(
                f"{self.path} takes the camera of each crop; export it with --camera mean, and name"
                " that export."
            )
        images = self.model.preprocess(crops).to(self.model.device)
        return (self.forward or self.model.network)(images).float().cpu().numpy()
