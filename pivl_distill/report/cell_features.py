"""Features of grid cells, and whether those of one body part lie together (π-VL, Fig. 2).

Cells are those of a network's last map, with the part that most of their pixels show. Cells of the
background and of unknown parts are left out, and neighbours in the same crop never count: they
share their surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pivl_distill.data.part_maps import cell_parts
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.map_layer import MapLayer

NEIGHBOURS = 10
MAX_CELLS = 2000
"""Cells that are compared with each other: 16 MB of similarities."""
BATCH = 64
PERPLEXITY = 30


@dataclass(frozen=True)
class Cells:
    """S cells of crops: unit features float32 [S, C], and int64 [S] part, identity and crop."""

    features: np.ndarray
    parts: np.ndarray
    pids: np.ndarray
    crops: np.ndarray

    def __len__(self) -> int:
        return len(self.parts)

    def select(self, rows: np.ndarray) -> Cells:
        """Return the cells of these rows, indices or a mask."""
        return Cells(self.features[rows], self.parts[rows], self.pids[rows], self.crops[rows])


def embed_cells(
    model: EmbeddingModel,
    layer: MapLayer,
    crops: np.ndarray,
    part_maps: Sequence[np.ndarray],
    pids: np.ndarray,
    vocabulary: Vocabulary,
) -> Cells:
    """Return the cells with a part of N crops.

    Args:
        model: preprocessing of the network.
        layer: its last layer with a map.
        crops: uint8 RGB [N, H, W, 3].
        part_maps: N of uint8 [H, W].
        pids: int64 [N].
        vocabulary: of the part maps.
    """
    features, parts = [], []
    for start in range(0, len(crops), BATCH):
        images = model.preprocess(crops[start : start + BATCH]).to(model.device)
        maps = layer.maps(images).cpu()
        labels = torch.from_numpy(np.stack(part_maps[start : start + BATCH]))
        grid = (maps.shape[2], maps.shape[3])
        features.append(F.normalize(maps.flatten(2).mT, dim=2))
        parts.append(cell_parts(labels, grid, len(vocabulary), "majority").flatten(1))
    part = torch.cat(parts).numpy()
    crop = np.broadcast_to(np.arange(len(crops))[:, None], part.shape)
    shown = (part != IGNORE) & (part != vocabulary.background)
    return Cells(torch.cat(features).numpy()[shown], part[shown], pids[crop[shown]], crop[shown])


def sample_rows(parts: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return at most `count` rows, as evenly over the parts as there are cells: int64, ascending.

    Parts with fewer than `NEIGHBOURS` + 1 cells are left out.
    """
    draw, chosen = np.random.default_rng(seed), []
    labels, counts = np.unique(parts, return_counts=True)
    left, order = count, np.argsort(counts)
    order = order[counts[order] > NEIGHBOURS]
    for number, label in enumerate(labels[order]):
        rows = np.flatnonzero(parts == label)
        share = min(len(rows), left // (len(order) - number))
        chosen.append(draw.choice(rows, share, replace=False))
        left -= share
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Purity:
    """How well cells are grouped by part, and by identity within a part.

    `silhouette` (Rousseeuw 1987, cosine distance) is in −1..1, the shares in 0..1; `…_chance` is
    the share if neighbours were drawn at random.
    """

    silhouette: float
    part: float
    """Share of the ten nearest cells of other crops that have the same part."""
    part_chance: float
    identity: float
    """Share of cells whose nearest cell of the same part in other crops is the same person's."""
    identity_chance: float
    cells: int


def measure_purity(cells: Cells) -> Purity:
    """Compare at most `MAX_CELLS` cells with each other; at least two parts must be among them."""
    from sklearn.metrics import silhouette_score

    similarity = cells.features @ cells.features.T
    other = cells.crops[:, None] != cells.crops
    same_part = cells.parts[:, None] == cells.parts
    same_person = cells.pids[:, None] == cells.pids
    nearest = np.argsort(-np.where(other, similarity, -np.inf), axis=1)[:, :NEIGHBOURS]
    within = other & same_part
    rows = np.flatnonzero((within & same_person).any(axis=1))
    closest = np.where(within, similarity, -np.inf).argmax(axis=1)
    return Purity(
        silhouette=float(silhouette_score(cells.features, cells.parts, metric="cosine")),
        part=float(np.take_along_axis(same_part, nearest, axis=1).mean()),
        part_chance=float((within.sum(1) / other.sum(1)).mean()),
        identity=float(same_person[rows, closest[rows]].mean()),
        identity_chance=float(((within & same_person).sum(1) / within.sum(1).clip(1))[rows].mean()),
        cells=len(cells),
    )


def layout(cells: Cells, seed: int = 0) -> np.ndarray:
    """Return the positions float32 [S, 2] of t-SNE (van der Maaten & Hinton 2008), by cosine."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(cells) - 1) / 3)
    tsne = TSNE(metric="cosine", perplexity=perplexity, init="random", random_state=seed)
    positions: np.ndarray = tsne.fit_transform(cells.features)
    return positions
