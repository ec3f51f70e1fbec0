"""Public networks that others trained, scored on Market-1501: `rivals`.

Their published figures show that the protocol is right on photographs; they are the rivals of our
students, and Intel's largest is also a teacher.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from benchmarks.experiment import RESULTS, Arm, Experiment, ResultFile, Row
from benchmarks.market1501.files import Files, root_option
from pivl_distill.app.targets import evaluate_target
from pivl_distill.foreign import load_preprocessing
from pivl_distill.storage.output_path import OutputPath

RIVALS = {
    "intel_0277": ("Intel 0277, 2.1 M parameters", "intel-retail"),
    "intel_0286": ("Intel 0286, 1.2 M parameters", "intel-retail"),
    "intel_0287": ("Intel 0287, 0.60 M parameters", "intel-retail"),
    "intel_0288": ("Intel 0288, 0.18 M parameters", "intel-retail"),
    "osnet_market1501": ("OSNet ×0.25, trained on Market-1501", "osnet"),
    "osnet_msmt17": ("OSNet ×0.25, trained on MSMT17", "osnet"),
}
"""Network → label and preset of its preprocessing."""

EXPERIMENT = Experiment(
    name="Networks of others on Market-1501",
    question="Does `evaluate` reproduce published figures on photographs?",
    command="python -m benchmarks.market1501 rivals --root ROOT",
    data="market1501",
    budget={},
    arms={name: Arm(label=label, settings={}) for name, (label, _) in RIVALS.items()},
    baseline="intel_0288",
)


@click.command("rivals")
@root_option
@click.option("--out", type=OutputPath(), default=RESULTS / "market1501_rivals.json")
def main(root: Path, out: Path) -> None:
    """Score networks of Intel and OSNet that are in ROOT."""
    files = Files(root)
    spec = files.spec
    results = ResultFile.load_or_create(out, EXPERIMENT)
    for name, (label, preset) in RIVALS.items():
        if not results.done(name, 0):
            start, declared = time.monotonic(), load_preprocessing(preset)
            path = files.rival(name)
            scores = evaluate_target(path, spec, preprocessing=declared).result
            seconds = round(time.monotonic() - start, 1)
            results.add(Row(arm=name, mAP=scores.mAP, rank1=scores.rank(1), seconds=seconds))
        row = next(row for row in results.experiment.rows if row.arm == name)
        click.echo(f"{label}: mAP {100 * row.mAP:.1f}, Rank-1 {100 * row.rank1:.1f}")
