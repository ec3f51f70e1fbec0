"""Result files of experiments, in `benchmarks/results/`; docs/results.md is generated from them.

An experiment trains one network per arm and seed, and adds a row to its file when each is
measured, so that an interrupted one continues where it stopped:

    file = ResultFile.load_or_create(RESULTS / "student_arms.json", experiment)
    for seed, arm in itertools.product(range(6), experiment.arms):
        if not file.done(arm, seed):
            ...
            file.add(Row(arm=arm, seed=seed, mAP=..., rank1=..., train_top1=..., seconds=...))
    print(file.experiment.compare("part", "plain"))  # +1.4 [+0.6, +2.2]

The file also holds the text that follows its table on the page, as `conclusion`. In that text
`{part}` stands for an arm's mAP and `{part - plain}` for a difference with its interval, so that
the text cannot disagree with the rows.
"""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pivl_distill.device import processor_name
from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.runs.seed_differences import Difference, spread, welch_difference
from pivl_distill.storage.files import write_text

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "timm", "numpy")
"""Packages whose versions are recorded, with Python's."""

Metric = Literal["mAP", "rank1", "train_top1", "seconds"]
Share = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Origin(_Model):
    """The code and the machine that rows were measured with."""

    commit: str
    """Short hash, with `-dirty` if files were changed."""
    versions: dict[str, str]
    processor: str
    threads: int
    device: str = "cpu"

    @classmethod
    def here(cls, device: str = "cpu") -> Origin:
        """Return this checkout and this machine; `device` is cpu, or the name of a GPU."""
        git = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        commit = subprocess.run(git, cwd=RESULTS.parent, capture_output=True, text=True)
        return cls(
            commit=commit.stdout.strip() or "unknown",
            versions={"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
            processor=processor_name(),
            threads=torch.get_num_threads(),
            device=device,
        )


class Arm(_Model):
    """One way to train that is compared with others."""

    label: str
    """Name in the table."""
    settings: dict[str, Any] = {}
    """Settings that differ from those of the other arms, by dotted name."""


class Row(_Model):
    """Figures of one trained network; mAP, Rank-1 and training top-1 are in 0..1."""

    arm: str
    seed: int = 0
    mAP: Share  # noqa: N815
    rank1: Share
    train_top1: Share | None = None
    """Training accuracy in the last epoch; None for a network that was not trained here."""
    seconds: float | None = Field(default=None, ge=0)
    """Training time."""
    extra: dict[str, float] = {}
    """Further figures, by the heading of their column."""
    finished: str = Field(default_factory=lambda: _now())
    """Time in UTC, ISO 8601."""
    origin: int = 0
    """Index into the experiment's `origins`; set by `ResultFile.add`."""


class Experiment(_Model):
    """A result file: what was asked, how it was measured, the rows, and the conclusion."""

    name: str
    """Heading on the page."""
    question: str
    """One sentence."""
    command: str
    """Shell command that measures the rows."""
    data: str
    """Data set, such as `synthetic:default`."""
    budget: dict[str, int | float | str]
    """What all arms share: epochs, batch size, learning rate, initial weights."""
    arms: dict[str, Arm]
    """In the order of the table; keys are words of letters, digits and underscores."""
    baseline: str
    """Arm that the others are compared with."""
    origins: list[Origin] = []
    rows: list[Row] = []
    conclusion: str = ""
    """Markdown; `{arm}` and `{arm - arm}` are replaced by figures."""

    def values(self, arm: str, metric: Metric = "mAP") -> list[float]:
        """Return a figure of every seed of an arm; shares in points, in the order of the seeds.

        Raises PivlError for an unknown arm.
        """
        if arm not in self.arms:
            raise unknown_name("arm", arm, self.arms)
        rows = sorted((row for row in self.rows if row.arm == arm), key=lambda row: row.seed)
        figures = [getattr(row, metric) for row in rows]
        scale = 1 if metric == "seconds" else 100
        return [scale * figure for figure in figures if figure is not None]

    def compare(self, arm: str, other: str, metric: Metric = "mAP") -> Difference:
        """Return mean(arm) − mean(other) with its 95 % interval (Welch 1947).

        Raises PivlError if an arm is unknown or has no rows.
        """
        ours, theirs = self.values(arm, metric), self.values(other, metric)
        if not ours or not theirs:
            empty = other if ours else arm
            raise PivlError(f"'{self.name}' has no rows of arm '{empty}'; measure it first.")
        return welch_difference(ours, theirs)

    def conclusion_text(self) -> str:
        """Return the conclusion with its figures; raises PivlError for an unknown arm."""

        def figure(match: re.Match[str]) -> str:
            arm, other = match.groups()
            return spread(self.values(arm)) if other is None else str(self.compare(arm, other))

        return re.sub(r"\{(\w+)(?: [-−] (\w+))?\}", figure, self.conclusion)


class ResultFile:
    """An experiment's file; every added row is on disk before `add` returns.

    Several processes may add rows to one file.
    """

    def __init__(self, path: Path, experiment: Experiment, origin: Origin) -> None:
        self.path = path
        self.experiment = experiment
        self.origin = origin

    @classmethod
    def load_or_create(
        cls, path: Path, header: Experiment, origin: Origin | None = None
    ) -> ResultFile:
        """Return the file at `path`, created if missing; rows in it are kept.

        `header` is the experiment without rows. Its question, command and labels replace those of
        the file, and it may have more or fewer arms; a conclusion in the file stays. `origin` is
        this checkout and machine if None.

        Raises PivlError if the file holds another experiment, or if `header` is inconsistent.
        """
        header = Experiment.model_validate_json(header.model_dump_json())  # tuples become lists
        file = cls(path, header, origin or Origin.here())
        with file._lock():
            file.experiment = _merged(path, read(path), header) if path.is_file() else header
            _check(path, file.experiment)
            file._write()
        return file

    def done(self, arm: str, seed: int) -> bool:
        """Whether the file has the row of an arm and a seed."""
        return any((row.arm, row.seed) == (arm, seed) for row in self.experiment.rows)

    def add(self, row: Row) -> None:
        """Write a row; raises PivlError if its arm is unknown or the file has it already."""
        with self._lock():
            self.experiment = read(self.path)  # a conclusion or rows may have been added meanwhile
            if row.arm not in self.experiment.arms:
                raise unknown_name("arm", row.arm, self.experiment.arms)
            if self.done(row.arm, row.seed):
                raise PivlError(f"'{self.path}' has arm '{row.arm}' with seed {row.seed} already.")
            if self.origin not in self.experiment.origins:
                self.experiment.origins.append(self.origin)
            number = self.experiment.origins.index(self.origin)
            self.experiment.rows.append(row.model_copy(update={"origin": number}))
            self._write()

    def _lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def _write(self) -> None:
        write_text(self.path, self.experiment.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Experiment:
    """Return the experiment of a result file; raises PivlError if it is not one."""
    try:
        experiment = Experiment.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        raise PivlError(f"'{path}' is not a result file: {error}") from error
    _check(path, experiment)
    return experiment


def _merged(path: Path, found: Experiment, header: Experiment) -> Experiment:
    """Return the recorded experiment with the header's texts and arms; PivlError if they differ."""
    differing = [
        name
        for name in ("name", "data", "budget", "baseline")
        if getattr(found, name) != getattr(header, name)
    ]
    differing += [
        f"settings of arm '{key}'"
        for key in found.arms.keys() & header.arms.keys()
        if found.arms[key].settings != header.arms[key].settings
    ]
    if differing:
        raise PivlError(
            f"'{path}' holds another experiment, which differs in: {', '.join(sorted(differing))}."
            " Name another file."
        )
    return header.model_copy(
        update={
            "arms": header.arms | {k: v for k, v in found.arms.items() if k not in header.arms},
            "origins": found.origins,
            "rows": found.rows,
            "conclusion": found.conclusion or header.conclusion,
        }
    )


def _check(path: Path, experiment: Experiment) -> None:
    """Raise PivlError unless baseline and rows name arms and origins that exist."""
    problems = [f"arm key '{key}'" for key in experiment.arms if not re.fullmatch(r"\w+", key)]
    used = {experiment.baseline} | {row.arm for row in experiment.rows}
    problems += [f"unknown arm '{arm}'" for arm in sorted(used - experiment.arms.keys())]
    seen = [(row.arm, row.seed) for row in experiment.rows]
    problems += [f"{arm} seed {seed} twice" for arm, seed in {*seen} if seen.count((arm, seed)) > 1]
    if any(not 0 <= row.origin < len(experiment.origins) for row in experiment.rows):
        problems.append("a row without origin")
    if problems:
        raise PivlError(f"'{path}' is inconsistent: {'; '.join(problems)}. Correct it.")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
