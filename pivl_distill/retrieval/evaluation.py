"""Retrieval of a model on a data set's query and gallery, by the Market-1501 protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction, embed
from pivl_distill.retrieval import RetrievalResult, evaluate, evaluate_distances, rerank_rows

CPU = torch.device("cpu")


@dataclass(frozen=True)
class QueryGalleryCrops:
    """The decoded test split."""

    query: CropStore
    gallery: CropStore

    @classmethod
    def load(
        cls, dataset: ReIDDataset, size_hw: tuple[int, int], cache_gib: float = 0.0
    ) -> QueryGalleryCrops:
        """Read both sets, as `CropStore.load` does; maps are not needed to embed."""
        query, gallery = (
            CropStore.load(records, size_hw, what=what, cache_gib=cache_gib)
            for what, records in (("query", dataset.query), ("gallery", dataset.gallery))
        )
        return cls(query, gallery)

    def clamp_camera_ids(self, cameras: int) -> QueryGalleryCrops:
        """The same crops, those of higher camera ids (int64, from 0) as if of the last that is.

        For a network that has never seen these cameras, of which no figure is meant.
        """
        return QueryGalleryCrops(
            *(
                store
                if store.camids is None
                else replace(store, camids=store.camids.clip(max=cameras - 1))
                for store in (self.query, self.gallery)
            )
        )


@dataclass(frozen=True)
class QueryGalleryFeatures:
    """Features of the test split, float32 [Q, F] and [G, F]."""

    query: np.ndarray
    gallery: np.ndarray


def embed_query_gallery(
    model: EmbeddingModel, test: QueryGalleryCrops, forward: ForwardFunction | None = None
) -> QueryGalleryFeatures:
    """Features of both sets; `forward` stands in for the network, e.g. an exported file."""
    query, gallery = test.query, test.gallery
    return QueryGalleryFeatures(
        embed(model, query.crops, query.camids, forward=forward, description="Embedding query"),
        embed(
            model, gallery.crops, gallery.camids, forward=forward, description="Embedding gallery"
        ),
    )


def evaluate_features(
    features: QueryGalleryFeatures, test: QueryGalleryCrops, device: torch.device = CPU
) -> RetrievalResult:
    """mAP, CMC and mINP of the test split; without the same-camera rule if cameras are unknown.

    The result is the same on any `device`.
    """
    query, gallery = _on_device(features, device)
    return evaluate(query, gallery, *_labels(test))


def evaluate_reranked(
    features: QueryGalleryFeatures, test: QueryGalleryCrops, device: torch.device = CPU
) -> RetrievalResult:
    """`evaluate_features` after k-reciprocal re-ranking with the parameters of its paper."""
    query, gallery = _on_device(features, device)
    distances = (rows.cpu().numpy() for rows in rerank_rows(query, gallery))
    return evaluate_distances(distances, *_labels(test))


def evaluate_model(model: EmbeddingModel, test: QueryGalleryCrops) -> RetrievalResult:
    """`evaluate_features` of what a network embeds."""
    return evaluate_features(embed_query_gallery(model, test), test, model.device)


def _on_device(features: QueryGalleryFeatures, device: torch.device) -> tuple[Tensor, Tensor]:
    query, gallery = torch.from_numpy(features.query), torch.from_numpy(features.gallery)
    return query.to(device), gallery.to(device)


def _labels(
    test: QueryGalleryCrops,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    query, gallery = test.query, test.gallery
    return query.pids, gallery.pids, query.camids, gallery.camids
