"""docs/results.md and the tables of README.md, generated from the files in `benchmarks/results/`:

python -m benchmarks.results

In README.md, the lines between `<!-- results: NAME -->` and `<!-- end -->` are the table of
NAME.json.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

from benchmarks.experiment import RESULTS, Experiment, read
from pivl_distill.errors import PivlError
from pivl_distill.runs.seed_differences import spread
from pivl_distill.storage.files import write_text

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
MARKED_TABLE = re.compile(r"(<!-- results: (\w+) -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)


def render_page(folder: Path = RESULTS) -> str:
    """Return docs/results.md: question, table, conclusion and origin of each result file."""
    parts = [
        "# Results",
        "Generated from the files in `benchmarks/results/` by `python -m benchmarks.results`; do"
        " not edit.",
        "Each row of a result file is one training run, with seed, commit, versions, processor and"
        " time. Tables give mean ± standard deviation over seeds. The difference is that of the"
        " means to the baseline, in points of mAP, with its 95 % interval (Welch, unequal"
        " variances). Arms differ in the named settings only, and share budget, seeds and data"
        " order. Training top-1 is the accuracy on training identities in the last epoch: well"
        " below 100 % the student has not reached its plateau.",
    ]
    experiments = [read(path) for path in sorted(folder.glob("*.json"))]
    for experiment in (e for e in experiments if e.rows):
        parts += [f"## {experiment.name}", experiment.question, table(experiment)]
        parts += [experiment.conclusion_text()] * bool(experiment.conclusion)
        parts += [f"```sh\n{experiment.command}\n```", origin_text(experiment)]
    if len(parts) == 3:
        parts.append("No experiment has been recorded yet.")
    return "\n\n".join(parts) + "\n"


def render_readme(text: str, folder: Path = RESULTS) -> str:
    """Return README.md with the current table of each result file that it names."""

    def marked(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(read(folder / f'{match[2]}.json'))}\n\n"

    return MARKED_TABLE.sub(marked, text)


def table(experiment: Experiment) -> str:
    """Return the Markdown table of an experiment, with a row for each arm that was measured."""
    extras = list(dict.fromkeys(name for row in experiment.rows for name in row.extra))
    heads = ["arm", "mAP", "Rank-1", "train top-1", "difference in mAP", "minutes", "seeds"]
    lines = [heads + extras, ["---"] * (len(heads) + len(extras))]
    measured = {row.arm for row in experiment.rows}
    for arm, description in experiment.arms.items():
        if arm not in measured:
            continue
        rows = [row for row in experiment.rows if row.arm == arm]
        compared = arm != experiment.baseline and experiment.baseline in measured
        cells = [description.label]
        cells += [spread(experiment.values(arm, m)) for m in ("mAP", "rank1", "train_top1")]
        cells.append(str(experiment.compare(arm, experiment.baseline)) if compared else "")
        cells += [spread([s / 60 for s in experiment.values(arm, "seconds")], deviation=False)]
        cells.append(str(len(rows)))
        for name in extras:
            values = [row.extra[name] for row in rows if name in row.extra]
            cells.append(f"{statistics.mean(values):,.6g}" if values else "")
        lines.append([cell.replace("|", "\\|") for cell in cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def origin_text(experiment: Experiment) -> str:
    """Return one paragraph: data, budget, settings of the arms, code and machines of the rows."""
    budget = ", ".join(f"{name} {value}" for name, value in experiment.budget.items())
    text = f"Data `{experiment.data}`; {budget}." if budget else f"Data `{experiment.data}`."
    for number in sorted({row.origin for row in experiment.rows}):
        origin = experiment.origins[number]
        rows = sum(row.origin == number for row in experiment.rows)
        versions = ", ".join(f"{name} {value}" for name, value in origin.versions.items())
        device = "" if origin.device == "cpu" else f" and {origin.device}"
        text += (
            f" {rows} rows at commit {origin.commit} on {origin.processor}{device},"
            f" {origin.threads} threads ({versions})."
        )
    return text


def main() -> None:
    """Write the page and the tables; an unreadable result file ends with exit code 2."""
    try:
        write_text(PAGE, render_page())
        write_text(README, render_readme(README.read_text(encoding="utf-8")))
    except PivlError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
