"""Run folders: `runs/<kind>-<number>/` with config.yaml, metrics.jsonl, artifacts and run.json.

`run.json` is written last, so its presence means that the run is complete. Later commands use the
latest complete run of a kind by default. Until then, `state/` holds the progress of the run.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pivl_distill import crash_report
from pivl_distill.config import DataSettings, read_yaml, validate_settings
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.runs.callbacks import Observers
from pivl_distill.runs.contract import CHANGED_SETTINGS
from pivl_distill.runs.progress import Progress, is_running, remove_state, require_run_folder
from pivl_distill.storage.filenames import CONFIG_FILE, METRICS_FILE, RUN_FILE
from pivl_distill.storage.files import (
    append_bytes,
    check_writable,
    is_empty,
    remove_partial,
    write_json,
    write_text,
)
from pivl_distill.storage.locks import locked_folder
from pivl_distill.storage.readers import read_json

RUNS_DIR = Path("runs")
RunKind = Literal["teach", "student", "export"]
_SECTIONS = (*get_args(RunKind), "bank")
"""Sections of config.yaml; `pivl-distill bank` writes the last one."""
_SECOND_NS = 10**9
"""File systems keep dates to the second at least, in nanoseconds."""
_LONGEST_KIND = 64
"""Bytes of config.yaml in which its first section is looked for."""


class Run:
    """The folder of a run; writes are atomic except metrics.jsonl, which is appended line by line.

    Where there are several processes, all call the same methods with the same values and rank 0
    writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.observers = Observers()

    @classmethod
    def create(cls, kind: RunKind, config_yaml: str, path: Path | None = None) -> Run:
        """Create a run in a new folder: `path`, or the next free `runs/<kind>-<number>`.

        Several processes share one folder. Raises PivlError if the folder contains files.
        """
        folder = process_group.broadcast_object(lambda: _new_folder(kind, config_yaml, path))
        crash_report.report_to(folder)
        return cls(folder)

    @classmethod
    def open_unfinished(cls, kind: RunKind, path: Path) -> Run:
        """Open a run in order to resume it; raises PivlError if that is not possible."""
        if not (path / CONFIG_FILE).is_file():
            raise PivlError(f"{path} contains no run to resume (no {CONFIG_FILE}).")
        if (path / RUN_FILE).is_file():
            remove_state(path)  # of a run that was killed just after its end
            raise PivlError(f"{path} is finished; there is nothing to resume.")
        if (actual := _kind_from_config(path)) != kind:
            raise PivlError(f"{path} was started by `pivl-distill {actual}`, not by {kind}.")
        crash_report.report_to(path)
        return cls(path)

    @classmethod
    def find_all(cls, kind: RunKind) -> list[Run]:
        """Return all runs of this kind in `runs/`, finished or not, in the order of their start."""
        configs = RUNS_DIR.glob(f"*/{CONFIG_FILE}")
        folders = [p.parent for p in sorted(configs, key=lambda path: path.stat().st_mtime_ns)]
        return [cls(folder) for folder in folders if _kind_from_config(folder) == kind]

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a complete run; raises PivlError if it is missing or unfinished."""
        if not path.is_dir():
            raise PivlError(f"No run folder at {path}.")
        if not (path / RUN_FILE).is_file():
            raise PivlError(
                f"{path} contains no finished run (no {RUN_FILE}); resume it with --resume,"
                " or run it again."
            )
        return cls(path)

    @classmethod
    def latest(cls, kind: RunKind) -> Run:
        """Open the run of this kind that finished last; raises PivlError if there is none."""
        finished = [p.parent for p in RUNS_DIR.glob(f"*/{RUN_FILE}") if Run(p.parent).kind == kind]
        if not finished:
            raise PivlError(
                f"No finished {kind} run in {RUNS_DIR.resolve()}; run `pivl-distill {kind}` first"
                " or name a folder."
            )
        return cls(max(finished, key=lambda path: (path / RUN_FILE).stat().st_mtime_ns))

    @property
    def is_stopped(self) -> bool:
        """Whether the run is unfinished and no process is running it."""
        return not (self.path / RUN_FILE).is_file() and not is_running(self.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """The summary in run.json; raises PivlError if the file is damaged."""
        return read_json(self.path / RUN_FILE, "the summary of a run")

    @property
    def kind(self) -> str:
        """teach, student or export; another value if another program wrote the run.json."""
        return str(self.metadata.get("kind"))

    @property
    def data_settings(self) -> DataSettings:
        """The data settings of the run's configuration."""
        return read_data_settings(self.path)

    @cached_property
    def progress(self) -> Progress:
        """The progress of the run, for resuming it."""
        return Progress(self.path)

    def log_metrics(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl, and tell the callbacks."""
        if process_group.rank():
            return
        require_run_folder(self.path)
        append_bytes(self.path / METRICS_FILE, f"{json.dumps(metrics)}\n".encode())
        self.observers.epoch(metrics)

    def finish(self, kind: RunKind, **metadata: Any) -> None:
        """Mark the run complete with its summary, and the settings that a resume changed."""
        pinned = self.progress.contract.values
        changed = {key: pinned[key] for key in (CHANGED_SETTINGS,) if key in pinned}
        if not process_group.rank():
            require_run_folder(self.path)
            summary = {"kind": kind, **metadata, **changed}
            write_json(self.path / RUN_FILE, summary)
            _date_last(self.path / RUN_FILE)
            self.observers.finish(summary)


def _new_folder(kind: RunKind, config_yaml: str, path: Path | None) -> Path:
    """Create the folder of a run and write its config.yaml.

    Of several commands that begin at once, each gets a folder of its own, or is refused.
    """
    path = _next_folder(kind) if path is None else path
    refusal = f"Another process is starting a run in {path}; name another folder with --out."
    with locked_folder(path, refusal):
        _check_empty(path)
        remove_partial(path)
        write_text(path / CONFIG_FILE, config_yaml)
        _date_last(path / CONFIG_FILE)
    return path


def _date_last(written: Path) -> None:
    """Give a file of a run, just written, a later date than those of this name in `runs/`.

    `find_all` and `latest` compare these dates, and the clock may have been set back meanwhile.
    """
    dates = [0]
    for file in RUNS_DIR.glob(f"*/{written.name}"):
        with suppress(OSError):  # a run that is removed at this moment
            dates += [file.stat().st_mtime_ns] * (file.absolute() != written.absolute())
    if written.stat().st_mtime_ns <= (newest := max(dates)):
        os.utime(written, ns=(newest + _SECOND_NS, newest + _SECOND_NS))


def _next_folder(kind: RunKind) -> Path:
    """Create `runs/<kind>-<number>` with the first number above all existing ones."""
    RUNS_DIR.mkdir(exist_ok=True)
    number = max((_number(path) for path in RUNS_DIR.glob(f"{kind}-*")), default=0)
    while True:
        number += 1
        try:
            (folder := RUNS_DIR / f"{kind}-{number}").mkdir()
        except FileExistsError:  # of a command that began at the same time
            continue
        return folder


def check_run_folder(path: Path | None) -> None:
    """Raise PivlError unless a new run can be written to `path`; None is the next one in `runs/`.

    For commands that do long work before they create the run. Nothing is created.
    """
    check_writable(RUNS_DIR if path is None else path, folder=True)
    if path is not None:
        _check_empty(path)


def _check_empty(path: Path) -> None:
    """Raise PivlError if a folder for a new run contains anything but partial files."""
    if not is_empty(path):
        raise PivlError(
            f"{path} already contains a run; name another folder with --out, or remove this one."
        )


def read_data_settings(folder: Path) -> DataSettings:
    """Return the data settings in a folder's config.yaml, or the defaults if there are none.

    A config.yaml of another program is ignored: a bank may be in any folder. Raises PivlError if
    the settings are invalid, for example because another version wrote them.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return DataSettings()
    try:
        ((kind, section),) = read_yaml(path, "settings").items()
        data = section["data"]
    except (PivlError, KeyError, TypeError, ValueError):
        return DataSettings()
    if kind not in _SECTIONS:
        return DataSettings()
    return validate_settings(DataSettings, data, f"{path}, section {kind}.data")


def _kind_from_config(path: Path) -> str:
    """Return the kind of a run: the name of the only section of its config.yaml.

    The file may be that of another program.
    """
    with (path / CONFIG_FILE).open("rb") as file:
        return file.read(_LONGEST_KIND).decode("utf-8", "replace").partition(":")[0]


def _number(path: Path) -> int:
    """The number at the end of a folder's name, at most nine digits; 0 if there is none."""
    match = re.search(r"-([0-9]{1,9})$", path.name)
    return int(match[1]) if match else 0
