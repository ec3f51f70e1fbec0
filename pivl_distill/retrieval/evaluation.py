"""Evaluate a network on a data set's query and gallery by the Market-1501 protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction, embed
from pivl_distill.retrieval import RetrievalResult, evaluate_distances, rerank_rows
from pivl_distill.retrieval.reid_metrics import QueryScores, score_queries

CPU = torch.device("cpu")


@dataclass(frozen=True)
class QueryGalleryCrops:
    """Decoded crops of the test split, with their labels."""

    query: CropStore
    gallery: CropStore
    scored: bool = True
    """False for crops whose features are compared but on which retrieval cannot be measured."""

    @classmethod
    def load(
        cls, dataset: ReIDDataset, size_hw: tuple[int, int], cache_gib: float = 0.0
    ) -> QueryGalleryCrops:
        """Read query and gallery, without parsing maps, as `CropStore.load` does.

        Crops are resized to `size_hw` pixels; `cache_gib` bounds the disk cache of decoded crops.
        """
        query, gallery = (
            CropStore.load(records, size_hw, what=split, cache_gib=cache_gib)
            for split, records in (("query", dataset.query), ("gallery", dataset.gallery))
        )
        return cls(query, gallery)

    @classmethod
    def load_unscored(
        cls, query: Sequence[Record], gallery: Sequence[Record], size_hw: tuple[int, int]
    ) -> QueryGalleryCrops:
        """Read crops that are no retrieval task, in two parts; see `load` for `size_hw`."""
        first, second = (CropStore.load(records, size_hw) for records in (query, gallery))
        return cls(first, second, scored=False)

    def clamp_camera_ids(self, cameras: int) -> QueryGalleryCrops:
        """Return the same crops with camera ids (int64, from 0) clamped to `cameras` − 1.

        For a network that was trained with fewer cameras; the scores are not meaningful.
        """

        def clamp(store: CropStore) -> CropStore:
            if store.camids is None:
                return store
            return replace(store, camids=store.camids.clip(max=cameras - 1))

        return replace(self, query=clamp(self.query), gallery=clamp(self.gallery))


@dataclass(frozen=True)
class QueryGalleryFeatures:
    """Features of the test split: float32 [Q, F] and [G, F], not normalised."""

    query: np.ndarray
    gallery: np.ndarray


def embed_query_gallery(
    model: EmbeddingModel, crops: QueryGalleryCrops, forward: ForwardFunction | None = None
) -> QueryGalleryFeatures:
    """Compute the features of query and gallery.

    `forward` replaces the network's own forward pass, e.g. by that of an exported file.
    """
    query, gallery = crops.query, crops.gallery
    return QueryGalleryFeatures(
        embed(model, query.crops, query.camids, forward=forward, description="Embedding query"),
        embed(
            model, gallery.crops, gallery.camids, forward=forward, description="Embedding gallery"
        ),
    )


def evaluate_features(
    features: QueryGalleryFeatures, crops: QueryGalleryCrops, device: torch.device = CPU
) -> RetrievalResult:
    """Return mAP, CMC and mINP; without the same-camera rule if cameras are unknown.

    The result does not depend on `device`.
    """
    return score_crops(features, crops, device).result()


def score_crops(
    features: QueryGalleryFeatures, crops: QueryGalleryCrops, device: torch.device = CPU
) -> QueryScores:
    """Return the scores of each query, whose means are those of `evaluate_features`."""
    query, gallery = _on_device(features, device)
    return score_queries(query, gallery, *_labels(crops))


def evaluate_reranked(
    features: QueryGalleryFeatures, crops: QueryGalleryCrops, device: torch.device = CPU
) -> RetrievalResult:
    """Return mAP, CMC and mINP after k-reciprocal re-ranking with its paper's parameters."""
    query, gallery = _on_device(features, device)
    distances = (rows.cpu().numpy() for rows in rerank_rows(query, gallery))
    return evaluate_distances(distances, *_labels(crops))


def evaluate_model(model: EmbeddingModel, crops: QueryGalleryCrops) -> RetrievalResult:
    """Embed query and gallery with a network and return mAP, CMC and mINP."""
    return evaluate_features(embed_query_gallery(model, crops), crops, model.device)


def _on_device(features: QueryGalleryFeatures, device: torch.device) -> tuple[Tensor, Tensor]:
    query, gallery = torch.from_numpy(features.query), torch.from_numpy(features.gallery)
    return query.to(device), gallery.to(device)


def _labels(
    crops: QueryGalleryCrops,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    query, gallery = crops.query, crops.gallery
    return query.pids, gallery.pids, query.camids, gallery.camids
