"""`pivl-distill migrate`: map stored vectors to another network's space, where the crops are gone.

The map is fitted on the training crops of a data set, which both networks embed, and measured on
its query and gallery: people that the fit has not seen. It does not pay if the new network's
queries find less in the migrated gallery than the old network's in the gallery as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill import __version__
from pivl_distill.app.networks import names_its_data
from pivl_distill.console import summary, table
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.scorable import check_scorable
from pivl_distill.data.validation import hold_out
from pivl_distill.errors import PivlError
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import (
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
)
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runs.run import read_data_settings
from pivl_distill.storage.files import check_writable
from pivl_distill.vectors.files import Metadata, VectorFile, vector_writer
from pivl_distill.vectors.mapping import VectorMap, fit_map

logger = logging.getLogger(__name__)

MIGRATED = "migrated"
"""Key in the metadata of a file whose vectors were mapped: a list, one entry per migration."""
HELD_OUT = 0.2
"""Share of the training identities that measure the map if there are no query and gallery."""


@dataclass(frozen=True)
class Migration:
    """A fitted map of old to new vectors, and what it costs on people it was not fitted on."""

    old: LoadedNetwork
    new: LoadedNetwork
    spec: str
    fitted: VectorMap
    cosine: float
    """Mean centred cosine of mapped vectors to the new network's, on held-out identities."""
    before: RetrievalResult
    """Old queries in the old gallery."""
    best: RetrievalResult
    """New queries in a gallery that the new network embedded."""
    after: RetrievalResult
    """New queries in the migrated gallery."""

    @property
    def pays(self) -> bool:
        """Whether the new network finds more in the migrated gallery than the old one in its."""
        return self.after.mAP > self.before.mAP

    def facts(self, source: VectorFile) -> Metadata:
        """Return the metadata of a file of migrated vectors."""
        assert self.old.space is not None
        assert self.new.space is not None
        earlier = source.metadata.get(MIGRATED, [])
        step = {
            "from": self.old.space.id,
            "by": f"ridge regression, strength {self.fitted.strength:g}",
            "data": self.spec,
            "cosine": self.cosine,
            "mAP": {"old": self.before.mAP, "new": self.best.mAP, "migrated": self.after.mAP},
        }
        return {
            **source.metadata,
            "network": self.new.model.name,
            **self.new.space.metadata(),
            MIGRATED: [*(earlier if isinstance(earlier, list) else []), step],
            "version": __version__,
        }


def fit_migration(old: LoadedNetwork, new: LoadedNetwork, spec: str | None = None) -> Migration:
    """Fit and measure the map of old to new vectors.

    Args:
        old: network that made the stored vectors.
        new: network whose queries are to be searched in them.
        spec: data set whose training crops the map is fitted on; default: that of the new network.

    Raises: PivlError if a network's space is unknown, or the data set has too few people.
    """
    for network in (old, new):
        if network.space is None:
            raise PivlError(f"{network.path} is of an earlier version; export it again.")
    if spec is None and not names_its_data(new.path):
        raise PivlError(f"Name the data set to fit the map on with --data; {new.path} names none.")
    spec = spec or read_data_settings(new.path.parent).spec
    train, test = _split(load_dataset(spec))
    before, after = (network.embed_records(train.train) for network in (old, new))
    pids = np.array([record.pid for record in train.train])
    fitted, cosine = fit_map(before, after, pids)
    (crops, olds), (new_crops, news) = (_embed_test(network, test) for network in (old, new))
    mixed = QueryGalleryFeatures(news.query, fitted(olds.gallery))
    return Migration(
        old,
        new,
        spec,
        fitted,
        cosine,
        before=evaluate_features(olds, crops),
        best=evaluate_features(news, new_crops),
        after=evaluate_features(mixed, new_crops),
    )


def _split(dataset: ReIDDataset) -> tuple[ReIDDataset, ReIDDataset]:
    """Return the data set to fit on, and one with query and gallery to measure on."""
    try:
        check_scorable(dataset, "")
    except PivlError:
        fit, measure = hold_out(dataset, round(HELD_OUT * len(dataset.train_pids)))
        if measure is None:
            raise
        logger.warning(
            "There are no query and gallery to measure on; training identities are held out. The"
            " networks know them, so the loss on other people is larger."
        )
        return fit, measure
    return dataset, dataset


def _embed_test(
    network: LoadedNetwork, dataset: ReIDDataset
) -> tuple[QueryGalleryCrops, QueryGalleryFeatures]:
    crops = QueryGalleryCrops.load(dataset, network.model.size_hw)
    return crops, embed_query_gallery(network.model, crops, network.forward)


def open_sources(vectors: Path, out: Path, old: LoadedNetwork) -> list[tuple[VectorFile, Path]]:
    """Return the files to migrate, each with the file to write; checks them before long work.

    `vectors` is a file, or a folder of Parquet files; then `out` is a folder too. Raises PivlError
    if there are none, if they are of another network than `old`, or if `out` is not writable.
    """
    if not vectors.exists():
        raise PivlError(f"There is no file or folder of vectors at {vectors}.")
    folder = vectors.is_dir()
    paths = sorted(vectors.glob("*.parquet")) if folder else [vectors]
    if not paths:
        raise PivlError(f"No Parquet file in {vectors}; `pivl-distill embed` writes them.")
    if out.resolve() == vectors.resolve():
        raise PivlError(f"{out} holds the vectors to migrate; name another --out to keep them.")
    check_writable(out, folder=folder)
    vector_writer(paths[0] if folder else out)
    sources = [VectorFile.open(path) for path in paths]
    for source in sources:
        _check_source(source, old)
    return [(source, out / source.path.name if folder else out) for source in sources]


def _check_source(source: VectorFile, old: LoadedNetwork) -> None:
    """Raise PivlError unless the vectors are those of the old network, as far as they tell."""
    if source.dim != old.dim:
        raise PivlError(
            f"{source.path} has vectors of {source.dim} values, but {old.path} makes {old.dim};"
            " name the network that made them with --from."
        )
    if source.space is None:
        logger.warning(f"{source.path} does not say which network made it; taken to be {old.path}.")
    elif old.space is not None and source.space.id != old.space.id:
        raise PivlError(
            f"{source.path} is in the vector space {source.space}, but {old.path} in {old.space};"
            " name the network that made it with --from."
        )
    if MIGRATED in source.metadata:
        logger.warning(f"{source.path} was migrated before; the losses of both maps add up.")


def migrate_files(
    migration: Migration, sources: Sequence[tuple[VectorFile, Path]]
) -> Iterator[Path]:
    """Write the mapped vectors of each file, atomically, and yield what was written."""
    for source, out in sources:
        write = vector_writer(out)
        dim = migration.fitted.matrix.shape[1]
        with write(out, dim, migration.facts(source)) as add:
            for names, vectors in source.batches():
                for name, vector in zip(names, migration.fitted(vectors), strict=True):
                    add(name, vector)
        yield out


def check_pays(migration: Migration, *, force: bool) -> None:
    """Raise PivlError if the migrated gallery is worse than keeping the old network.

    With `force` it is only logged. A new network that was trained for the gallery needs no map.
    """
    old, new = migration.old, migration.new
    if old.space is not None and new.space is not None and new.space.accepts(old.space):
        reason = f"{new.path} was trained for this gallery: search it as it is"
    elif not migration.pays:
        reason = (
            f"queries of {new.path} reach {migration.after.mAP:.1%} mAP in the migrated gallery,"
            f" those of {old.path} {migration.before.mAP:.1%} in it as it is: keep that network for"
            " this gallery, or train one for it with `pivl-distill student --compatible-with`"
        )
    else:
        return
    if not force:
        raise PivlError(f"Migration does not pay: {reason}. --force migrates all the same.")
    logger.warning(f"Migration does not pay: {reason}.")


def print_migration(migration: Migration) -> None:
    """Print what the map costs."""
    scores = {
        "old → old": migration.before,
        "new → new": migration.best,
        "new → migrated": migration.after,
    }
    rows = [
        (name, f"{100 * score.mAP:.1f} %", f"{100 * score.rank(1):.1f} %")
        for name, score in scores.items()
    ]
    table(f"Queries in galleries of {migration.spec}", ("", "mAP", "Rank-1"), rows)


def print_migrated(migration: Migration, written: Sequence[Path]) -> None:
    """Print where the vectors are."""
    loss = 100 * (migration.best.mAP - migration.after.mAP)
    rows: dict[str, Any] = {
        "files": ", ".join(map(str, written)),
        "loss of the map": f"{loss:.1f} points of mAP, cosine {migration.cosine:.3f} (centred)",
        "vector space": str(migration.new.space),
    }
    summary("Migrated", rows)
