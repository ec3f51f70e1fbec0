"""Does the bank help, and which part of it? Five arms, three seeds, equal in all but the texts.

    python benchmarks/bank_arms.py            teach once, then 5 × 3 students of 20 epochs
    python benchmarks/bank_arms.py --bank runs/teach-1

Start weights, budget, data order and augmentation are the same in every arm of a seed; nothing was
chosen on the test identities. Rows are written to `benchmarks/results/bank_arms.json` as they come,
and a run that was interrupted goes on from there.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import click

from pivl_distill.bank import PromptBank
from pivl_distill.cli.sources import find_bank
from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.console import table
from pivl_distill.files import write_json
from students.distill import distill
from teachers.teach import teach

ARMS = {
    "none": "no bank",
    "identity": "identity bank",
    "part": "part bank",
    "label": "label-only part bank",
    "permuted": "part bank, rows permuted over identities",
}
RESULTS = Path(__file__).parent / "results" / "bank_arms.json"


@click.command()
@click.option("--bank", type=click.Path(path_type=Path), help="A teach run; default: teach first.")
@click.option("--arch", default="mobilenetv2_025", show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(bank: Path | None, arch: str, epochs: int, seeds: int, out: Path) -> None:
    """Train every arm with every seed and print mAP and Rank-1 with their spread."""
    bank_file, data = find_bank(str(bank or teach(TeachConfig()).run), "part")
    if bank_file is None:
        raise click.UsageError("name a bank")
    setting = {
        "arch": arch,
        "epochs": epochs,
        "data": data.model_dump(mode="json"),
        "bank": PromptBank.load(bank_file).provenance,
    }
    results = json.loads(out.read_text()) if out.is_file() else {"setting": setting, "rows": []}
    if results["setting"] != setting:
        raise click.UsageError(f"{out} holds another experiment; name another file with --out.")
    for seed in range(seeds):
        for arm in ARMS:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in results["rows"]):
                continue
            config = load_config(
                StudentConfig,
                "student",
                None,
                {
                    "arch": arch,
                    "data": data.model_dump(),
                    "supervision": arm,
                    "seed": seed,
                    "stage2.epochs": epochs,
                },
            )
            report = distill(config, None if arm == "none" else bank_file)
            figures = report.retrieval.summary()
            results["rows"].append(
                {"arm": arm, "seed": seed, "seconds": round(report.seconds, 1), **figures}
            )
            write_json(out, results)
    print_table(results["rows"], seeds)


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
