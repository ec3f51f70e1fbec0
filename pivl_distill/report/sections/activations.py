"""What it looks at: class activation maps of all networks on the same queries (π-VL, Fig. 5)."""

from __future__ import annotations

import numpy as np

from pivl_distill.report.activation_maps import (
    QUERIES,
    HeatOnPerson,
    choose_queries,
    heat_on_person,
    overlaid,
    query_maps,
)
from pivl_distill.report.blocks import (
    Block,
    LeftOutError,
    PictureLine,
    PictureRow,
    PictureRows,
    Row,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.context import ReportContext
from pivl_distill.report.opened import OpenedNetwork, open_networks

TITLE = "What it looks at"
SHOWN = 6
"""Queries that are shown."""

EXPLANATION = (
    "Grad-CAM of the bare network, as it is exported: which pixels raise the cosine of the query"
    " with the mean embedding of its person's gallery crops. Yellow pixels raise it most. Each"
    " picture is scaled to its own maximum, so that colours compare places, not networks."
)


def build(context: ReportContext) -> list[Block]:
    """Return a table of where the heat is, and the maps of some queries."""
    networks, reasons = open_networks(context)
    test = networks[0].scored.evaluation.test
    queries = choose_queries(test, QUERIES)
    heat = {network.label: query_maps(network, queries) for network in networks}
    blocks: list[Block] = [Text(EXPLANATION), *(Text(reason, note=True) for reason in reasons)]
    blocks.append(_table(context, queries, heat))
    try:
        context.pictures.require()
        blocks.append(_pictures(context, networks, queries, heat))
    except LeftOutError as error:
        blocks.append(Text(f"Pictures are left out. {error}", note=True))
    return blocks


def _table(context: ReportContext, queries: np.ndarray, heat: dict[str, np.ndarray]) -> Table:
    vocabulary = context.dataset.vocabulary
    rows: list[Row] = []
    for label, maps in heat.items():
        found: HeatOnPerson | None = None
        if vocabulary is not None:
            size_hw = (maps.shape[1], maps.shape[2])
            records = [context.dataset.query[query] for query in queries]
            part_maps = [context.part_map(record, size_hw) for record in records]
            found = heat_on_person(maps, part_maps, vocabulary.background)
        both = (None, None) if found is None else (found.heat, found.pixels)
        rows.append((label, *map(share, both), number(len(queries))))
    columns = ("Network", "Heat on the person", "Pixels of the person", "Queries")
    return Table("Where the heat is, by the part maps", columns, rows)


def _pictures(
    context: ReportContext,
    networks: list[OpenedNetwork],
    queries: np.ndarray,
    heat: dict[str, np.ndarray],
) -> PictureRows:
    rows = []
    for position in np.linspace(0, len(queries) - 1, min(SHOWN, len(queries))).astype(int):
        query = int(queries[position])
        record = context.dataset.query[query]
        who = f"Query {query}, person {record.pid}"
        crop = networks[0].scored.evaluation.test.query.crops[query]
        pictures = [context.crop_picture(record, crop, who, caption="query")]
        for network in networks:
            own = network.scored.evaluation.test.query.crops[query]
            blended = overlaid(own, heat[network.label][position])
            alt = f"{who}: activation map of {network.label}"
            picture = context.crop_picture(record, blended, alt, caption=network.label)
            pictures.append(picture)
        rows.append(PictureRow(who, [PictureLine(pictures)]))
    return PictureRows("Queries and the maps of each network", rows, large=True)
