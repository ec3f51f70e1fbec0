"""Commands on runs: curves of one, tables of several, and one page about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import FOLDER, OUT_FILE, device_option, no_cache_option

if TYPE_CHECKING:
    from pivl_distill.app.comparison import Shape
    from pivl_distill.app.comparison_table import TableFormat
    from pivl_distill.config import DeviceChoice
    from pivl_distill.report.pictures import Heads


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


@click.command(
    short_help="Write one HTML page about runs.",
    epilog="""\b
Examples:
  pivl-distill report
  pivl-distill report runs/teach-1 runs/student-1 runs/student-3 runs/export-4 -o report.html
  pivl-distill report --no-crops -o figures.html
""",
)
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=FOLDER)
@click.option(
    "--out",
    "-o",
    type=OUT_FILE,
    default=Path("report.html"),
    show_default=True,
    help="The page; an existing one is replaced.",
)
@click.option(
    "--data", "spec", metavar="KIND:PATH", help="Data set to score on; default: the last run's."
)
@click.option("--no-crops", is_flag=True, help="Put no photographs on the page.")
@click.option(
    "--heads",
    type=click.Choice(["auto", "pixelated", "shown"]),
    default="auto",
    show_default=True,
    help="Heads on photographs; auto: pixelated unless people are synthetic.",
)
@device_option(text="Where checkpoints run; auto: a GPU if there is one, the CPU for ONNX files.")
@no_cache_option
def report(
    runs: tuple[Path, ...],
    out: Path,
    spec: str | None,
    no_crops: bool,
    heads: Heads,
    device: DeviceChoice,
    no_cache: bool,
) -> None:
    """Write one self-contained HTML page about any mix of teach, student and export runs.

    RUN is a run folder; default: the latest teach, student and export run. The networks are
    scored on query and gallery again, for what their files do not record. A section whose input
    is missing is left out, with the reason.
    """
    from pivl_distill.report.context import ReportSettings
    from pivl_distill.report.write import print_report, write_report

    settings = ReportSettings(spec, not no_crops, heads, device, not no_cache)
    print_report(write_report(runs, out, settings))


@click.command(
    short_help="Draw the curves of a run in the terminal.",
    epilog="""\b
Examples:
  pivl-distill watch
  pivl-distill watch runs/student-2 --once
""",
)
@click.argument("run", required=False, type=FOLDER)
@click.option("--once", is_flag=True, help="Draw the curves as they are now, and end.")
def watch(run: Path | None, once: bool) -> None:
    """Draw the curves of a teach or student run, and again whenever an epoch ends.

    RUN is a run folder, also of a run in another terminal; default: the run that was started last.
    The command ends with the run; Ctrl-C ends the command alone.
    """
    from pivl_distill.app.watch import find_watched, watch_run

    watch_run(find_watched(run), once=once)
