"""Queries and what each network finds first, as rows of pictures that can be sorted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivl_distill.data.records import Record
from pivl_distill.report.blocks import Mark, Picture, PictureLine, PictureRow, PictureRows
from pivl_distill.report.context import ReportContext
from pivl_distill.report.networks import ScoredNetwork
from pivl_distill.retrieval.top_matches import NO_MATCH, top_matches
from pivl_distill.vectors.unit import unit

HARDEST, SPREAD = 16, 8
"""Queries that are shown: the hardest ones, and some spread evenly over the others."""
TOP = 10
MAX_NETWORKS = 4
"""Networks beside each other; every one adds `TOP` pictures per query."""


def choose_queries(difficulty: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the queries to show, hardest first: at most `HARDEST` + `SPREAD` positions, int64.

    `difficulty` is float [Q], low for hard queries; only `valid` queries, bool [Q], are shown.
    """
    order = np.argsort(difficulty, kind="stable")
    order = order[valid[order]]
    rest = order[HARDEST:]
    if len(rest):
        places = np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).astype(int)
        rest = rest[places]
    return np.concatenate([order[:HARDEST], rest])


def strips(context: ReportContext, scored: Sequence[ScoredNetwork]) -> PictureRows:
    """Return one row per chosen query, with a line of pictures per network.

    Raises LeftOutError if the page has no photographs.
    """
    context.pictures.require()
    shown = scored[:MAX_NETWORKS]
    precision = np.stack([network.scores.average_precision for network in shown])
    mean, spread = precision.mean(axis=0), np.ptp(precision, axis=0)
    queries = choose_queries(mean, shown[0].scores.valid)
    found = [
        top_matches(network.evaluation.features, network.evaluation.test, queries, TOP)
        for network in shown
    ]
    rows = []
    for place, query in enumerate(queries):
        lines = []
        for network, ap, matches in zip(shown, precision[:, query], found, strict=True):
            label = f"{network.label}: average precision {100 * ap:.0f} %"
            lines.append(_match_line(context, network, int(query), matches[place], label))
        values = [mean[query], -spread[query], *precision[:, query], float(query)]
        rows.append(PictureRow(_heading(context.dataset.query[query], int(query)), lines, values))
    orders = ["hardest first, by the mean of the networks"]
    orders += ["networks that differ most first"]
    orders += [f"hardest for {network.network.name} first" for network in shown]
    return PictureRows(_caption(len(scored), len(queries)), rows, [*orders, "as in the data set"])


def _caption(networks: int, queries: int) -> str:
    cut = ""
    if networks > MAX_NETWORKS:
        cut = f" Only the first {MAX_NETWORKS} of {networks} networks are shown."
    return (
        f"{queries} queries: the {min(HARDEST, queries)} hardest, and others spread over the rest;"
        f" the first {TOP} gallery crops of each network, with their cosine.{cut}"
    )


def _heading(record: Record, query: int) -> str:
    return f"Query {query}: person {record.pid}{_camera(record)}"


def _camera(record: Record) -> str:
    return "" if record.camid is None else f", camera {record.camid + 1}"


def _query_picture(context: ReportContext, network: ScoredNetwork, query: int) -> Picture:
    record, crop = context.dataset.query[query], network.evaluation.test.query.crops[query]
    alt = f"person {record.pid}{_camera(record)}"
    return context.crop_picture(record, crop, alt, mark="query", caption="query")


def _match_line(
    context: ReportContext, network: ScoredNetwork, query: int, matches: np.ndarray, label: str
) -> PictureLine:
    pictures = [_query_picture(context, network, query)]
    features, gallery = network.evaluation.features, network.evaluation.test.gallery
    ours = unit(features.query[query])
    for match in matches[matches != NO_MATCH]:
        record = context.dataset.gallery[match]
        right = record.pid == context.dataset.query[query].pid
        mark: Mark = "right" if right else "wrong"
        cosine = float(ours @ unit(features.gallery[match]))
        alt = f"{mark}: person {record.pid}{_camera(record)}"
        crop = gallery.crops[match]
        picture = context.crop_picture(record, crop, alt, mark=mark, caption=f"{cosine:.2f}")
        pictures.append(picture)
    return PictureLine(pictures, label)
