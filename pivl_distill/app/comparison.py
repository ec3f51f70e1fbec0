"""`pivl-distill compare`: training runs grouped by their settings, with differences over seeds.

Runs with the same settings but for the seed are one row; the first row is the baseline of the
others. What a row is called depends on the shape of the table: the settings that differ, or the
columns of one of the tables of the π-VL paper.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pivl_distill.app.networks import find_checkpoint, load_checkpoint
from pivl_distill.config import CACHE_LIMITS, flatten_settings, read_yaml
from pivl_distill.errors import PivlError
from pivl_distill.runs.metrics import read_metrics
from pivl_distill.runs.run import Run
from pivl_distill.runs.seed_differences import Difference, paired_difference, welch_difference
from pivl_distill.storage.filenames import CONFIG_FILE, VOCABULARY_FILE
from pivl_distill.storage.readers import read_json

Shape = Literal["settings", "3", "4", "5"]
"""Columns that name a row: differing settings, or those of Table 3, 4 or 5 of the paper."""
COMPARED = ("teach", "student")
WITHOUT_EFFECT = {"seed", "device", "data.evaluation", *sum(CACHE_LIMITS.values(), ())}
"""Settings in which runs of one row may differ."""
BANK_SOURCES = ("clip", "clip_sha256", "prompts", "data")
"""What a student's run.json says of the origin of its bank, and distinguishes rows."""
TICK = "✓"


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run: its seed, the settings that affect results, and its scores."""

    path: Path
    kind: str
    seed: int
    settings: dict[str, Any]
    """By dotted name, with `bank.…` for the origin of a student's bank."""
    mAP: float  # noqa: N815
    rank1: float
    """Both in percent."""


@dataclass(frozen=True)
class Row:
    """Runs of equal settings, by ascending seed, and their difference to the first row."""

    labels: tuple[str, ...]
    runs: tuple[TrainedRun, ...]
    mAP_difference: Difference | None  # noqa: N815
    rank1_difference: Difference | None
    """In points; both None for the first row."""

    def values(self, score: Literal["mAP", "rank1"]) -> list[float]:
        """Return a score of every seed, in percent."""
        return [getattr(run, score) for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """The rows of a table; `columns` name their labels, `data` the data set of the scores."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    paired: bool
    data: str


def compare_runs(
    paths: Sequence[Path],
    *,
    paired: bool = False,
    shape: Shape = "settings",
    ignore: Collection[str] = (),
) -> Comparison:
    """Compare finished training runs.

    Args:
        paths: run folders; those of the first row first.
        paired: whether differences are taken seed by seed, over the seeds that both rows have.
        shape: columns that name a row.
        ignore: settings in which runs of one row may differ, besides the seed.

    Raises: PivlError if a run is missing, unfinished or without scores, if runs were scored on
        different data, if two have the same settings and seed, and if `paired` finds no pair.
    """
    runs = [read_trained_run(path, ignore) for path in dict.fromkeys(map(Path.absolute, paths))]
    groups = _group(runs)
    data = {str(run.settings.get("data.spec")): run.path for run in runs}
    if len(data) > 1:
        listed = ", ".join(f"{spec} ({path})" for spec, path in data.items())
        raise PivlError(f"The runs were scored on different data: {listed}. Compare runs of one.")
    columns, labels = _label(groups, shape)
    rows = [
        Row(label, group, *_differences(group, groups[0], paired=paired))
        for label, group in zip(labels, groups, strict=True)
    ]
    return Comparison(columns, tuple(rows), paired, next(iter(data)))


def read_trained_run(path: Path, ignore: Collection[str] = ()) -> TrainedRun:
    """Read a finished teach or student run; see `compare_runs` for `ignore` and errors."""
    run = Run.open(path)
    metadata, kind = run.metadata, run.kind
    if kind not in COMPARED:
        raise PivlError(f"{path} is a run of `pivl-distill {kind}`; name teach and student runs.")
    section = read_yaml(path / CONFIG_FILE, "settings").get(kind)
    if not isinstance(section, dict):
        raise PivlError(f"{path / CONFIG_FILE} holds no settings of `pivl-distill {kind}`.")
    settings = dict(flatten_settings(section))
    bank = metadata.get("bank")
    if isinstance(bank, dict):
        origin = {name: bank[name] for name in BANK_SOURCES if name in bank}
        settings |= dict(flatten_settings(origin, "bank."))
    retrieval: Any = metadata.get("retrieval")
    try:
        seed, scores = int(settings["seed"]), (retrieval["mAP"], retrieval["rank1"])
        mean_precision, rank1 = (100 * float(score) for score in scores)
    except (KeyError, TypeError, ValueError) as error:
        raise PivlError(
            f"{path} has no scores (mAP, Rank-1) or no seed: it was trained with --no-evaluation,"
            " or by another version. Leave it out."
        ) from error
    left_out = {*ignore, *WITHOUT_EFFECT, "bank.data.evaluation", "bank.data.crop_cache_gib"}
    effective = {name: value for name, value in settings.items() if name not in left_out}
    return TrainedRun(path, kind, seed, effective, mean_precision, rank1)


def _group(runs: Sequence[TrainedRun]) -> list[tuple[TrainedRun, ...]]:
    """Return the runs by settings, in the order of the first of each, sorted by seed."""
    groups: dict[str, dict[int, TrainedRun]] = {}
    for run in runs:
        group = groups.setdefault(repr((run.kind, sorted(run.settings.items()))), {})
        if run.seed in group:
            raise PivlError(
                f"{group[run.seed].path} and {run.path} have the same settings and seed"
                f" ({run.seed}); name one of them."
            )
        group[run.seed] = run
    return [tuple(group[seed] for seed in sorted(group)) for group in groups.values()]


def _differences(
    ours: Sequence[TrainedRun], theirs: Sequence[TrainedRun], *, paired: bool
) -> tuple[Difference | None, Difference | None]:
    """Return the differences in mAP and Rank-1; None for the baseline itself."""
    if ours is theirs:
        return None, None
    if paired:
        common = {run.seed for run in ours} & {run.seed for run in theirs}
        if not common:
            raise PivlError(
                f"{ours[0].path} and {theirs[0].path} have no seed in common; remove --paired."
            )
        ours, theirs = ([r for r in side if r.seed in common] for side in (ours, theirs))
    difference = paired_difference if paired else welch_difference
    return (
        difference([run.mAP for run in ours], [run.mAP for run in theirs]),
        difference([run.rank1 for run in ours], [run.rank1 for run in theirs]),
    )


def _label(
    groups: Sequence[Sequence[TrainedRun]], shape: Shape
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the label columns, and the labels of each group."""
    runs = [group[0] for group in groups]
    if shape == "settings":
        names = _differing(runs)
        values = [{"command": run.kind, **run.settings} for run in runs]
        return _short(names), [tuple(_shown(row.get(name)) for name in names) for row in values]
    columns, label = {
        "3": (("H", "P", "F"), _components),
        "4": (("parser", "vocabulary"), _parser),
        "5": (("network", "parameters", "multiply-adds", "learns from"), _network),
    }[shape]
    return columns, [label(run) for run in runs]


def _differing(runs: Sequence[TrainedRun]) -> tuple[str, ...]:
    """Return the settings in which runs of one command differ; "command" if commands differ."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    kinds = {run.kind for run in runs}
    differing = ["command"] if len(kinds) > 1 else []
    for name in names:
        values = (
            {repr(run.settings[name]) for run in runs if run.kind == kind and name in run.settings}
            for kind in kinds
        )
        if any(len(distinct) > 1 for distinct in values):
            differing.append(name)
    return tuple(differing) or ("command",)


def _short(names: Sequence[str]) -> tuple[str, ...]:
    """Return the last part of each dotted name, or the whole name where that repeats."""
    ends = [name.rpartition(".")[2] for name in names]
    return tuple(
        end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)
    )


def _shown(value: Any) -> str:
    if value is None or value is False:
        return "–"
    return TICK if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _components(run: TrainedRun) -> tuple[str, ...]:
    """Table 3: part texts without identity (H), of each identity (P), and fused maps (F)."""
    supervision = run.settings.get("supervision")
    aligned = supervision in ("label", "part")
    fused = aligned and len(run.settings.get("stage2.head.levels") or ()) > 1
    ticks = (supervision == "label", supervision == "part", fused)
    return tuple(TICK if tick else "" for tick in ticks)


def _parser(run: TrainedRun) -> tuple[str, ...]:
    """Table 4: where the parsing maps are from, and their vocabulary."""
    folder = run.settings.get("data.parsing") or run.settings.get("bank.data.parsing")
    if folder is None:
        return "maps of the data set", ""
    path = Path(str(folder)) / VOCABULARY_FILE
    description: Mapping[str, Any] = read_json(path, "a description of maps")
    parser = description.get("parser")
    name = parser.get("name") if isinstance(parser, dict) else None
    return str(name or folder), str(description.get("vocabulary", ""))


def _network(run: TrainedRun) -> tuple[str, ...]:
    """Table 5: the network without training heads, its cost, and what it learns from."""
    from export.cost import network_cost

    model = load_checkpoint(find_checkpoint(run.path))
    cost = network_cost(model.network, model.size_hw, model.cameras)
    texts = {"none": "", "part": "identity and part texts", "identity": "identity texts"}
    supervision = str(run.settings.get("supervision"))
    sources = ["labels", texts.get(supervision, f"{supervision} texts")]
    if run.kind == "student" and run.settings.get("teacher") != "none" and _has_teacher(run):
        sources.append("teacher's embeddings")
    return (
        model.name,
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:.1f} M",
        ", ".join(filter(None, sources)),
    )


def _has_teacher(run: TrainedRun) -> bool:
    """Whether the student's losses compared it with a teacher; "auto" may have found none."""
    return any("embedding" in line for line in read_metrics(run.path))
