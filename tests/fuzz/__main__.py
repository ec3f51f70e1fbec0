"""Examine random cases of every sort until the time is over, or a number of each.

    make fuzz MINUTES=10
    make fuzz INPUTS=1000

Each failed case is kept in `tests/fuzz/regressions`, which `make test` examines again; the exit
code is then 1. The table is Markdown.
"""

from __future__ import annotations

import random
import sys
import time

import click

from benchmarks.experiment import Origin
from fuzz.search import Tally, explore, keep
from fuzz.sorts import SORTS
from fuzz.table import markdown, record, rows
from fuzz.worker import Worker

ROUND = 100
"""Cases of one sort before the next sort has its turn."""


@click.command()
@click.option("--minutes", type=float, help="Time for all sorts; default: no limit.")
@click.option("--inputs", type=int, help="Cases of each sort; default: as many as fit in the time.")
@click.option("--sort", "names", multiple=True, type=click.Choice(list(SORTS)), help="Only these.")
@click.option("--seed", type=int, help="Default: another one in each call.")
@click.option("--record", "recorded", is_flag=True, help="Also write them for the documentation.")
def main(
    minutes: float | None,
    inputs: int | None,
    names: tuple[str, ...],
    seed: int | None,
    recorded: bool,
) -> None:
    """Fuzz everything that reads files of others."""
    if minutes is None and inputs is None:
        raise click.UsageError("Give --minutes, --inputs or both.")
    rng, origin = random.Random(seed), Origin.here()
    end = time.monotonic() + (60 * minutes if minutes is not None else 1e9)
    tallies = [Tally(name) for name in names or SORTS]
    with Worker() as worker:
        while todo := [t for t in tallies if inputs is None or t.inputs < inputs]:
            for tally in todo:
                if time.monotonic() > end:
                    break
                left = ROUND if inputs is None else min(ROUND, inputs - tally.inputs)
                _explore(tally, worker, left, rng.getrandbits(32))
            if time.monotonic() > end:
                break
    click.echo(markdown(rows(tallies)))
    if recorded:
        record(tallies, origin)
    sys.exit(any(tally.failed for tally in tallies))


def _explore(tally: Tally, worker: Worker, inputs: int, seed: int) -> None:
    """Examine cases, and keep and report what fails in a new way."""
    known, start = set(tally.failures), time.monotonic()
    explore(tally, worker, inputs, seed)
    tally.wall_s += time.monotonic() - start
    for signature in tally.failures.keys() - known:
        case, verdict = tally.failures[signature]
        path = keep(tally.sort, case, verdict)
        click.echo(f"{tally.sort}: {signature}\n{verdict.text.strip()}\nkept as {path}\n", err=True)


if __name__ == "__main__":
    main()
