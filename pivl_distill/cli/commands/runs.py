"""Commands on runs: tables of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import FOLDER, OUT_FILE

if TYPE_CHECKING:
    from pivl_distill.app.comparison import Shape
    from pivl_distill.app.comparison_table import TableFormat


@click.command(
    short_help="Compare training runs, with intervals over seeds.",
    epilog="""\b
Examples:
  pivl-distill compare runs/student-1 runs/student-2 runs/student-3
  pivl-distill compare plain-0 plain-1 plain-2 taught-0 taught-1 taught-2 --paired
  pivl-distill compare b b_h b_p b_p_f --table 3 --format latex -o table3.tex
""",
)
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--paired", is_flag=True, help="Take differences seed by seed.")
@click.option(
    "--table",
    "shape",
    type=click.Choice(["settings", "3", "4", "5"]),
    default="settings",
    show_default=True,
    help="Columns: settings that differ, or those of Table 3, 4 or 5 of the paper.",
)
@click.option(
    "--ignore", multiple=True, metavar="SETTING", help="Its values make no rows of their own."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "markdown", "latex"]),
    help="Default: table, or by the suffix of --out (.csv, .md, .tex).",
)
@click.option("--out", "-o", type=OUT_FILE, help="File instead of standard output.")
def compare(
    runs: tuple[Path, ...],
    paired: bool,
    shape: Shape,
    ignore: tuple[str, ...],
    form: TableFormat | None,
    out: Path | None,
) -> None:
    """Compare finished teach and student runs.

    Runs with equal settings but for the seed are one row; the first row is the baseline. Table 3
    has the components of the method (H: part texts without identity, P: of each identity, F: fused
    maps), Table 4 the parsers, and Table 5 the networks.
    """
    from pivl_distill.app.comparison import compare_runs
    from pivl_distill.app.comparison_table import as_text, choose_format, print_comparison
    from pivl_distill.storage.files import write_text

    chosen = choose_format(form, out)
    comparison = compare_runs(runs, paired=paired, shape=shape, ignore=ignore)
    if out is not None:
        write_text(out, as_text(comparison, chosen))
    elif chosen == "table":
        print_comparison(comparison)
    else:
        click.echo(as_text(comparison, chosen), nl=False)
