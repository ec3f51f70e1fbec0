"""Class activation maps of embeddings: which pixels make a query similar to its person.

An embedding has no classes, so the score that Grad-CAM (Selvaraju et al., ICCV 2017) explains is
the cosine of the query's embedding with the mean embedding of the person's gallery crops that count
as hits. Each network is compared with its own embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.models.map_layer import MapLayer
from pivl_distill.report.opened import OpenedNetwork
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.matches import Matches

BATCH = 32
VIRIDIS = 16
"""cv2.COLORMAP_VIRIDIS: legible without colour vision."""
QUERIES = 48
"""Queries that the share of the heat is a mean over."""


def activation_maps(layer: MapLayer, images: Tensor, references: Tensor) -> np.ndarray:
    """Return Grad-CAM's maps float32 [B, H, W] in 0..1, of normalised images [B, 3, H, W].

    `references` [B, F] are the embeddings that each image's is compared with.
    """
    from pytorch_grad_cam import GradCAM

    maps = []
    with GradCAM(layer.network.eval(), [layer.layer], reshape_transform=layer.as_map) as grad_cam:
        for part, targets in zip(images.split(BATCH), references.split(BATCH), strict=True):
            compared = [functools.partial(_cosine, reference) for reference in targets]
            maps.append(grad_cam(input_tensor=part.contiguous(), targets=compared))
    return np.concatenate(maps).astype(np.float32)


def _cosine(reference: Tensor, embedding: Tensor) -> Tensor:
    return F.cosine_similarity(embedding, reference.to(embedding.device), dim=0)


def query_maps(network: OpenedNetwork, queries: np.ndarray) -> np.ndarray:
    """Return the activation maps float32 [n, H, W] of queries, at the size of the input."""
    evaluation, model = network.scored.evaluation, network.model
    references = mean_hits(evaluation.features, evaluation.test, queries)
    images = model.preprocess(evaluation.test.query.crops[queries]).to(model.device)
    return activation_maps(network.layer, images, references)


def choose_queries(crops: QueryGalleryCrops, count: int) -> np.ndarray:
    """Return at most `count` queries with a hit, spread evenly over the people: int64 [n]."""
    valid = np.flatnonzero([len(hits) > 0 for hits in _hits(crops, np.arange(len(crops.query)))])
    by_person = valid[np.argsort(crops.query.pids[valid], kind="stable")]
    picked = np.linspace(0, len(by_person) - 1, min(count, len(by_person))).round().astype(int)
    return by_person[picked]


def mean_hits(
    features: QueryGalleryFeatures, crops: QueryGalleryCrops, queries: np.ndarray
) -> Tensor:
    """Return the mean unit embedding of each query's hits in the gallery: [n, F]."""
    unit = F.normalize(torch.from_numpy(features.gallery), dim=1)
    return torch.stack([unit[torch.from_numpy(hits)].mean(0) for hits in _hits(crops, queries)])


def _hits(crops: QueryGalleryCrops, queries: np.ndarray) -> Sequence[np.ndarray]:
    matches = Matches(
        crops.query.pids, crops.gallery.pids, crops.query.camids, crops.gallery.camids
    )
    rows, _ = matches.hits_and_junk(queries)
    return [row[row >= 0] for row in rows]


@dataclass(frozen=True)
class HeatOnPerson:
    """Share of the heat that is on the person, and the person's share of the pixels."""

    heat: float
    pixels: float


def heat_on_person(
    maps: np.ndarray, part_maps: Sequence[np.ndarray | None], background: int
) -> HeatOnPerson | None:
    """Return the means over crops with a part map uint8 [H, W]; None if no crop has one.

    `maps` are activation maps [B, H, W]; pixels of unknown part count for neither side.
    """
    heat, pixels = [], []
    for heat_map, part_map in zip(maps, part_maps, strict=True):
        if part_map is None or not heat_map.any():
            continue
        known = part_map != IGNORE
        person = known & (part_map != background)
        heat.append(heat_map[person].sum() / heat_map[known].sum())
        pixels.append(person.sum() / known.sum())
    return HeatOnPerson(float(np.mean(heat)), float(np.mean(pixels))) if heat else None


def overlaid(crop: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Return a crop uint8 [H, W, 3] with its activation map [H, W] over it, dark blue to yellow."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    image = crop.astype(np.float32) / 255
    return show_cam_on_image(image, heat_map, use_rgb=True, colormap=VIRIDIS, image_weight=0.55)
