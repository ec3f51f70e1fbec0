"""Within-part consistency: whether cells of one body part lie together (π-VL, Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pivl_distill.report.blocks import (
    Block,
    Chart,
    ChartGrid,
    LeftOutError,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.cell_features import (
    MAX_CELLS,
    NEIGHBOURS,
    Cells,
    Purity,
    layout,
    measure_purity,
    sample_rows,
)
from pivl_distill.report.charts import COLOURS, SYMBOLS, figure
from pivl_distill.report.chosen_cells import (
    CROPS,
    PEOPLE,
    cells_of,
    choose_crops,
    choose_parts,
    shown_cells,
)
from pivl_distill.report.context import ReportContext
from pivl_distill.report.opened import open_networks

TITLE = "Within-part consistency"
EXPLANATION = (
    f"Cells of the last map of {PEOPLE} people of the test split, at most {CROPS} crops each, with"
    " the part that most of their pixels show; background is left out. Part purity is the share of"
    f" the {NEIGHBOURS} nearest cells that show the same part, identity purity within a part the"
    " share of cells whose nearest cell of that part is of the same person; neighbours in the same"
    " crop do not count. Both distances are cosines. The pictures are t-SNE layouts of some of the"
    " cells: they show neighbourhoods; distances between groups mean nothing. A network with a"
    " finer grid has smaller cells of more parts: compare its purity with that by chance."
)


def build(context: ReportContext) -> list[Block]:
    """Return the purity and a t-SNE picture of each network."""
    networks, reasons = open_networks(context)
    positions = choose_crops(context, networks[0].model.size_hw)
    parts = choose_parts(context, positions, networks[0].model.size_hw)
    blocks: list[Block] = [Text(EXPLANATION), *(Text(reason, note=True) for reason in reasons)]
    measured, charts = {}, []
    for network in networks:
        cells = cells_of(context, network, positions)
        sample = cells.select(sample_rows(cells.parts, MAX_CELLS))
        if len(np.unique(sample.parts)) < 2:
            raise LeftOutError("The part maps of the test crops show fewer than two parts.")
        measured[network.label] = measure_purity(sample)
        charts.append(_chart(context, network.label, shown_cells(cells, parts), parts))
    return [*blocks, _table(measured), ChartGrid(charts)]


def _table(measured: Mapping[str, Purity]) -> Table:
    columns = (
        *("Network", "Part purity", "by chance", "Silhouette by part"),
        *("Identity purity within a part", "by chance", "Cells"),
    )
    rows = [
        (
            label,
            share(purity.part),
            share(purity.part_chance),
            number(purity.silhouette, "{:.3f}"),
            share(purity.identity),
            share(purity.identity_chance),
            number(purity.cells),
        )
        for label, purity in measured.items()
    ]
    return Table("Numbers that the pictures stand for", columns, rows)


def _chart(context: ReportContext, label: str, cells: Cells, parts: list[int]) -> Chart:
    """Return the t-SNE layout: a colour per part, a mark per person."""
    from plotly.graph_objects import Scatter

    assert context.dataset.vocabulary is not None
    names, where = context.dataset.vocabulary.labels, layout(cells)
    hidden = {"visible": False}
    chart = figure("", "", xaxis=hidden, yaxis=hidden)
    marks = {pid: SYMBOLS[n % len(SYMBOLS)] for n, pid in enumerate(np.unique(cells.pids))}
    for index, part in enumerate(parts):
        rows = np.flatnonzero(cells.parts == part)
        pids = cells.pids[rows]
        marker = {
            "color": COLOURS[index % len(COLOURS)],
            "symbol": [marks[pid] for pid in pids],
            "size": 7,
        }
        chart.add_trace(
            Scatter(
                x=np.round(where[rows, 0], 2),
                y=np.round(where[rows, 1], 2),
                mode="markers",
                name=names[part],
                marker=marker,
                customdata=pids,
                hovertemplate=f"{names[part]}, person %{{customdata}}<extra></extra>",
            )
        )
    description = (
        f"t-SNE of {len(cells)} cells of {label}: a colour for each part, a mark for each of"
        f" {len(marks)} people. The table has what it shows in numbers."
    )
    return Chart(label, chart, description)
