"""The pictures of docs/looks.md: what the demo's networks look at, and how they group body parts.

    python -m benchmarks.looks runs/student-1 runs/student-3 runs/teach-1

Run it after `make demo`: student-1 has learned from labels alone, student-3 by the default recipe.
It writes docs/looks_at.png and docs/consistency.png, and prints the tables of the page. People are
synthetic.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from pivl_distill.report.activation_maps import (
    QUERIES,
    choose_queries,
    heat_on_person,
    overlaid,
    query_maps,
)
from pivl_distill.report.cell_features import (
    MAX_CELLS,
    Cells,
    layout,
    measure_purity,
    sample_rows,
)
from pivl_distill.report.charts import COLOURS
from pivl_distill.report.chosen_cells import cells_of, choose_crops, choose_parts, shown_cells
from pivl_distill.report.context import ReportContext, ReportSettings
from pivl_distill.report.opened import OpenedNetwork, open_networks
from pivl_distill.report.runs import find_runs
from pivl_distill.storage.files import write_bytes

DOCS = Path(__file__).parent.parent / "docs"
MARKS = "osD^vP*X"
COLUMNS = 6
"""Queries in the picture."""


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--names", help="Titles of the runs, separated by commas; default: their labels.")
def main(runs: tuple[Path, ...], names: str | None) -> None:
    """Draw both pictures for some runs on synthetic people, and print the tables."""
    context = ReportContext(find_runs(runs), ReportSettings(spec=None))
    if not context.dataset.synthetic:
        raise click.UsageError("The documentation shows synthetic people only.")
    networks, _ = open_networks(context)
    titles = names.split(",") if names else [network.label for network in networks]
    draw_activations(context, networks, titles)
    draw_consistency(context, networks, titles)


def draw_activations(
    context: ReportContext, networks: Sequence[OpenedNetwork], titles: Sequence[str]
) -> None:
    """Draw the activation maps of some queries, and print where the heat is."""
    test = networks[0].scored.evaluation.test
    queries = choose_queries(test, QUERIES)
    shown = np.linspace(0, len(queries) - 1, COLUMNS).astype(int)
    crops = test.query.crops[queries]
    rows = [[crops[number] for number in shown]]
    print("| network | heat on the person | pixels of the person |\n|---|---|---|")
    for network, title in zip(networks, titles, strict=True):
        maps = query_maps(network, queries)
        rows.append([overlaid(crops[number], maps[number]) for number in shown])
        records = [context.dataset.query[query] for query in queries]
        part_maps = [context.part_map(record, network.model.size_hw) for record in records]
        assert context.dataset.vocabulary is not None
        found = heat_on_person(maps, part_maps, context.dataset.vocabulary.background)
        assert found is not None
        print(f"| {title} | {100 * found.heat:.1f} % | {100 * found.pixels:.1f} % |")
    figure, axes = plt.subplots(
        len(rows), COLUMNS, figsize=(COLUMNS, len(rows) * 2.25), layout="constrained"
    )
    for title, images, line in zip(["query", *titles], rows, axes, strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for picture, axis in zip(images, line, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    save(figure, DOCS / "looks_at.png")


def draw_consistency(
    context: ReportContext, networks: Sequence[OpenedNetwork], titles: Sequence[str]
) -> None:
    """Draw t-SNE layouts of cells, and print their purity."""
    size_hw = networks[0].model.size_hw
    positions = choose_crops(context, size_hw)
    parts = choose_parts(context, positions, size_hw)
    figure, axes = plt.subplots(1, len(networks), figsize=(4 * len(networks), 4.4), squeeze=False)
    print("\n| network | part purity | silhouette | identity purity within a part |")
    print("|---|---|---|---|")
    for network, title, axis in zip(networks, titles, axes[0], strict=True):
        cells = cells_of(context, network, positions)
        found = measure_purity(cells.select(sample_rows(cells.parts, MAX_CELLS)))
        print(
            f"| {title} | {100 * found.part:.1f} % (chance {100 * found.part_chance:.1f} %)"
            f" | {found.silhouette:.3f}"
            f" | {100 * found.identity:.1f} % (chance {100 * found.identity_chance:.1f} %) |"
        )
        draw_layout(context, shown_cells(cells, parts), parts, axis)
        purity = f"part purity {100 * found.part:.0f} %, identity {100 * found.identity:.0f} %"
        axis.set_title(f"{title}\n{purity}", fontsize=9)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=8, fontsize=8)
    save(figure, DOCS / "consistency.png")


def draw_layout(context: ReportContext, cells: Cells, parts: Sequence[int], axis: plt.Axes) -> None:
    """Draw a t-SNE layout: a colour per part, a mark per person."""
    assert context.dataset.vocabulary is not None
    where, people = layout(cells), np.unique(cells.pids)
    for number, part in enumerate(parts):
        name, colour = context.dataset.vocabulary.labels[part], COLOURS[number % len(COLOURS)]
        axis.scatter([], [], s=20, c=colour, label=name)
        for person, mark in zip(people, MARKS, strict=False):
            rows = (cells.parts == part) & (cells.pids == person)
            axis.scatter(*where[rows].T, s=12, c=colour, marker=mark, linewidths=0)
    axis.set_xticks([])
    axis.set_yticks([])


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG with a palette, which is a third of the size."""
    file, small = io.BytesIO(), io.BytesIO()
    if figure.legends:
        figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(file, format="png", dpi=110)
    Image.open(file).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    write_bytes(path, small.getvalue())
    print(f"\n{path}: {len(small.getvalue()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
