"""The cross-test of `evaluate --gallery OLD`: queries of a network in the gallery of another one.

OLD is a network, which embeds query and gallery here, or a file of stored vectors, whose crops may
be gone on the device but are in the data set. Vectors of a file are compared only if its space
fits. Two networks are measured whether or not one was trained for the other's gallery.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.app.networks import load_network
from pivl_distill.app.targets import Evaluation, data_settings
from pivl_distill.config import Preprocessing
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
)
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.storage.filenames import utf8_name
from pivl_distill.vectors.files import load_comparable

logger = logging.getLogger(__name__)

VECTOR_SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class CrossTest:
    """Scores of queries in galleries, on one data set."""

    old: RetrievalResult | None
    """Old queries, old gallery; None if a file has no vectors of the queries."""
    new: RetrievalResult
    """New queries, new gallery."""
    cross: RetrievalResult
    """New queries, old gallery."""


def cross_test(
    evaluation: Evaluation, old: Path, preprocessing: Preprocessing | None = None
) -> CrossTest:
    """Score the queries of an evaluated network in the gallery of `old`.

    Args:
        evaluation: of the new network.
        old: a network, as `load_network` takes it, or a file of vectors.
        preprocessing: of an old network of others.

    Raises: PivlError if their vectors have different lengths, or if a file's are of another space
        or lack a crop of the gallery.
    """
    dataset = load_dataset(evaluation.spec)
    if old.suffix in VECTOR_SUFFIXES:
        if preprocessing is not None:
            raise PivlError(f"{old} holds vectors; remove --gallery-preset.")
        features = _stored_features(evaluation, old, dataset)
    else:
        features = _network_features(evaluation, load_network(old, preprocessing), dataset)
    test, device = evaluation.test, evaluation.device
    queries = len(features.query) == len(evaluation.features.query)
    mixed = QueryGalleryFeatures(evaluation.features.query, features.gallery)
    return CrossTest(
        old=evaluate_features(features, test, device) if queries else None,
        new=evaluation.result,
        cross=evaluate_features(mixed, test, device),
    )


def _network_features(
    evaluation: Evaluation, old: LoadedNetwork, dataset: ReIDDataset
) -> QueryGalleryFeatures:
    """Embed query and gallery with the old network."""
    dim = evaluation.features.query.shape[1]
    if old.dim != dim:
        raise PivlError(
            f"{evaluation.path} makes vectors of {dim} values and {old.path} of {old.dim}; train a"
            f" network for that gallery with `pivl-distill student --compatible-with {old.path}`."
        )
    spaces = (old.space, evaluation.space)
    if spaces[0] is not None and spaces[1] is not None and not spaces[0].accepts(spaces[1]):
        logger.warning(
            f"{evaluation.path} was not trained for the gallery of {old.path}; the scores show what"
            " happens if they are mixed all the same."
        )
    cache_gib = data_settings(evaluation.path.parent, evaluation.spec).crop_cache_gib
    crops = QueryGalleryCrops.load(dataset, old.model.size_hw, cache_gib)
    return embed_query_gallery(old.model, crops, old.forward)


def _stored_features(
    evaluation: Evaluation, path: Path, dataset: ReIDDataset
) -> QueryGalleryFeatures:
    """Look up the crops of gallery and query in a file of vectors; without queries if it has none.

    Raises PivlError if a crop of the gallery is missing.
    """
    dim = evaluation.features.query.shape[1]
    names, vectors = load_comparable(path, evaluation.space, dim, str(evaluation.path))
    rows = {name: row for row, name in enumerate(names)}
    gallery, query = (_find_rows(split, rows) for split in (dataset.gallery, dataset.query))
    if missing := [r for r, row in zip(dataset.gallery, gallery, strict=True) if row is None]:
        raise PivlError(
            f"{path} has no vector of {len(missing):,} of {len(gallery):,} crops of the gallery"
            f" (first {missing[0].path.name}); embed the folder of the gallery's images."
        )
    present = [row for row in query if row is not None]
    return QueryGalleryFeatures(
        vectors[present] if len(present) == len(query) else vectors[:0],
        vectors[[row for row in gallery if row is not None]],
    )


def _find_rows(records: Sequence[Record], rows: dict[str, int]) -> list[int | None]:
    """Return the row of each record: names in a file are the last parts of its path."""
    found = []
    for record in records:
        parts = record.path.parts
        names = ("/".join(parts[start:]) for start in range(len(parts)))
        row = next((rows[name] for name in map(utf8_name, names) if name in rows), None)
        found.append(row)
    return found
