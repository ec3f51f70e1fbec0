"""Run folders: `runs/<kind>-<number>/` with config.yaml, metrics.jsonl, artifacts and run.json.

`run.json` is written last, so its presence means the run is complete; the latest complete run of a
kind is what a later command takes when none is named. Until then `state/` holds how far the run is.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from pivl_distill.config import DataSettings
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.runs.progress import FINISHED, METRICS, Progress, is_running
from pivl_distill.storage.files import is_free, remove_partial, write_json, write_text

RUNS_DIR = Path("runs")
CONFIG = "config.yaml"
RunKind = Literal["teach", "student", "export"]


class Run:
    """One run's folder; writes are atomic except metrics.jsonl, which is appended line by line.

    Of several processes the first writes; what the others have to say is the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, kind: RunKind, config_yaml: str, path: Path | None = None) -> Run:
        """A fresh folder: `path`, or the next free `runs/<kind>-<number>`.

        An existing folder is never written over: PivlError. Several processes share one folder.
        """
        return cls(process_group.broadcast_object(lambda: _new_folder(kind, config_yaml, path)))

    @classmethod
    def unfinished(cls, kind: RunKind, path: Path) -> Run:
        """The run at `path`, to be continued; PivlError when it is finished or something else."""
        if not (path / CONFIG).is_file():
            raise PivlError(f"{path} holds no run to continue (no {CONFIG}).")
        if (path / FINISHED).is_file():
            raise PivlError(f"{path} is finished; there is nothing to continue.")
        if (begun := _begun_as(path)) != kind:
            raise PivlError(f"{path} was begun by `pivl-distill {begun}`, not by {kind}.")
        return cls(path)

    @classmethod
    def begun(cls, kind: RunKind) -> list[Run]:
        """All runs of this kind in `runs/`, in the order in which they were begun."""
        configs = sorted(RUNS_DIR.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime_ns)
        return [cls(path.parent) for path in configs if _begun_as(path.parent) == kind]

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing complete run; PivlError when it is missing or unfinished."""
        if not path.is_dir():
            raise PivlError(f"No run folder at {path}.")
        if not (path / FINISHED).is_file():
            raise PivlError(
                f"{path} holds no finished run (no {FINISHED}); continue it with --resume,"
                " or run it again."
            )
        return cls(path)

    @classmethod
    def latest(cls, kind: RunKind) -> Run:
        """The complete run of this kind that finished last; PivlError when there is none."""
        finished = [p.parent for p in RUNS_DIR.glob(f"*/{FINISHED}") if Run(p.parent).kind == kind]
        if not finished:
            raise PivlError(
                f"No finished {kind} run in {RUNS_DIR.resolve()}; run `pivl-distill {kind}` first"
                " or name a folder."
            )
        return cls(max(finished, key=lambda path: (path / FINISHED).stat().st_mtime_ns))

    @property
    def stopped(self) -> bool:
        """Whether the run is unfinished and no process is at it."""
        return not (self.path / FINISHED).is_file() and not is_running(self.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """What `finish` wrote."""
        metadata: dict[str, Any] = json.loads((self.path / FINISHED).read_text(encoding="utf-8"))
        return metadata

    @property
    def kind(self) -> str:
        """teach, student or export."""
        return str(self.metadata["kind"])

    @property
    def data(self) -> DataSettings:
        """The data settings of the run's configuration."""
        return data_settings_of(self.path)

    @cached_property
    def progress(self) -> Progress:
        """How far the run is."""
        return Progress(self.path)

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl."""
        if process_group.rank():
            return
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, kind: RunKind, **metadata: Any) -> None:
        """Mark the run complete with its summary."""
        if not process_group.rank():
            write_json(self.path / FINISHED, {"kind": kind, **metadata})


def _new_folder(kind: RunKind, config_yaml: str, path: Path | None) -> Path:
    if path is None:
        numbers = [_number(p) for p in RUNS_DIR.glob(f"{kind}-*")]
        path = RUNS_DIR / f"{kind}-{max(numbers, default=0) + 1}"
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    remove_partial(path)
    write_text(path / CONFIG, config_yaml)
    return path


def check_free(path: Path) -> None:
    """PivlError if a folder for a new run holds anything but what a killed first write left."""
    if not is_free(path):
        raise PivlError(
            f"{path} already holds a run; name another folder with --out, or remove this one."
        )


def data_settings_of(folder: Path) -> DataSettings:
    """The data settings in a folder's config.yaml; the defaults where there is none.

    A config.yaml of something else is none: a bank may lie anywhere.
    """
    path = folder / CONFIG
    if not path.is_file():
        return DataSettings()
    try:
        (section,) = yaml.safe_load(path.read_text(encoding="utf-8")).values()
        return DataSettings.model_validate(section["data"])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return DataSettings()


def _begun_as(path: Path) -> str:
    """The kind of a run: the one section of its config.yaml."""
    return (path / CONFIG).read_text(encoding="utf-8").partition(":")[0]


def _number(path: Path) -> int:
    suffix = path.name.rsplit("-", 1)[-1]
    return int(suffix) if suffix.isdigit() else 0
