"""Does the bank help, and which part of it? Five arms, six seeds; only the texts differ.

    python benchmarks/bank_arms.py            one teach run, then 5 × 6 students of 20 epochs
    python benchmarks/bank_arms.py --bank runs/teach-1

Initial weights, budget, data order and augmentation are equal in all arms of a seed. Settings were
chosen on `synthetic:default:1`, which has other people and other cameras, never on the test
identities. Each row is written to `runs/bank_arms.json` when it is measured; an interrupted run
continues from there.
"""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import click

from pivl_distill.app.training_plan import find_bank
from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.console import table
from pivl_distill.runs.run import RUNS_DIR, read_data_settings
from pivl_distill.storage.files import write_json
from students.distill import train_student
from teachers.teach import teach

ARMS = {
    "none": "no bank",
    "identity": "identity bank",
    "part": "part bank",
    "label": "label-only part bank",
    "permuted": "part bank, rows permuted over identities",
}
RESULTS = RUNS_DIR / "bank_arms.json"


@click.command()
@click.option("--bank", type=click.Path(path_type=Path), help="A teach run; default: teach first.")
@click.option("--arch", default="mobilenetv2_025", show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--seeds", default=6, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(bank: Path | None, arch: str, epochs: int, seeds: int, out: Path) -> None:
    """Train every arm with every seed and print mAP and Rank-1 with their standard deviation."""
    results = json.loads(out.read_text()) if out.is_file() else {"rows": []}
    bank = bank or Path(results["bank"] if "bank" in results else teach(TeachConfig()).run)
    setting = {"bank": str(bank), "arch": arch, "epochs": epochs}
    if any(results.setdefault(key, value) != value for key, value in setting.items()):
        raise click.UsageError(f"{out} holds another experiment; name another file with --out.")
    rows = results["rows"]
    for seed, arm in itertools.product(range(seeds), ARMS):
        if not any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
            rows.append({"arm": arm, "seed": seed, **train_arm(arm, seed, bank, arch, epochs)})
            write_json(out, results)
    print_table(rows, seeds)


def train_arm(arm: str, seed: int, bank: Path, arch: str, epochs: int) -> dict[str, float]:
    """mAP and Rank-1 of one student."""
    bank_file = find_bank(str(bank), "part")
    overrides = {"arch": arch, "supervision": arm, "seed": seed, "stage2.epochs": epochs}
    config = load_config(StudentConfig, "student", None, overrides)
    config = config.model_copy(update={"data": read_data_settings(bank_file.parent)})
    report = train_student(config, None if arm == "none" else bank_file)
    return {"seconds": round(report.seconds, 1), **report.retrieval.summary()}


def print_table(rows: list[dict[str, float]], seeds: int) -> None:
    """Mean, standard deviation and per-seed difference to the plain baseline, in points."""
    figures = {(row["arm"], row["seed"]): row for row in rows}
    lines = []
    for arm, name in ARMS.items():
        mean_ap = [100 * figures[arm, seed]["mAP"] for seed in range(seeds)]
        rank1 = [100 * figures[arm, seed]["rank1"] for seed in range(seeds)]
        gain = [value - 100 * figures["none", s]["mAP"] for s, value in enumerate(mean_ap)]
        lines.append(
            (name, _spread(mean_ap), _spread(rank1), ", ".join(f"{value:+.1f}" for value in gain))
        )
    columns = ("student", "mAP", "Rank-1", "mAP against no bank, per seed")
    table(f"Mean ± standard deviation over {seeds} seeds", columns, lines)


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
