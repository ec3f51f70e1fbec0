"""Exact resume: a run that was stopped anywhere ends with the same bytes as an uninterrupted one.

While a run is unfinished, its folder has a folder `state/` with

- `contract.json`: the values that must be equal on resume (see `contract.py`);
- `progress.safetensors`: everything that changes from step to step, as it was after the last saved
  step: weights, optimizer moments, running totals, random generators, the lines of metrics.jsonl;
- `lock`: held by the running process.

Files are replaced atomically, so a run that was killed at any moment has the old version or the new
one. Steps after the last saved one are discarded and repeated. Nothing is ever unpickled.

Where there are several processes, rank 0 writes and all read. The state does not depend on the
rank, so a run can be resumed with another number of processes.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from pivl_distill.data.sampling import PKSampler, Step
from pivl_distill.distributed import process_group
from pivl_distill.errors import DivergenceError, PivlError
from pivl_distill.runs.contract import CHANGED_SETTINGS, Contract
from pivl_distill.runs.saved_progress import SavedProgress
from pivl_distill.runs.signals import DeferredSignals
from pivl_distill.runs.state import Stateful, TorchRngState, pack_state, unpack_state
from pivl_distill.storage.filenames import (
    CONFIG_FILE,
    LOCK_FILE,
    METRICS_FILE,
    PROGRESS_FILE,
    RUN_FILE,
    STATE_FOLDER,
)
from pivl_distill.storage.files import remove_partial, write_text
from pivl_distill.storage.locks import locked
from pivl_distill.storage.mapped_files import ChangedFileError, check_unchanged
from pivl_distill.storage.tensors import damage_named, load_tensors, save_tensors

logger = logging.getLogger(__name__)

KIND = "training progress"

_STOPPED_FROM_OUTSIDE = (
    KeyboardInterrupt,
    SystemExit,
    OSError,
    ChangedFileError,
    process_group.PeerProcessError,
)

SAVE_PERIOD_S = 300.0
"""Progress is saved at the end of each epoch, and after this time within a longer one."""


class Progress:
    """The progress of a run through its stages and steps."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.contract = Contract(run)
        self.seconds: dict[str, float] = {}
        """Time spent in each stage, over all sessions, without the steps that were discarded."""
        self._progress_file = run / STATE_FOLDER / PROGRESS_FILE
        self._last: tuple[SavedProgress, dict[str, Tensor]] | None = None
        self._stage: str | None = None
        self._counted_until = self._saved_at = time.monotonic()
        self._signals = DeferredSignals()

    @contextmanager
    def session(
        self, command: str, config_yaml: str | None = None, **pinned: Any
    ) -> Iterator[None]:
        """Start or resume the run inside the block, with the values `pinned` in its contract.

        SIGTERM (exit code 143) and Ctrl-C (KeyboardInterrupt) stop the run so that
        `pivl-distill <command> --resume` continues it; a note names the command. A resumed run
        with other settings, of those that may change, gets `config_yaml` as its config.yaml. Raises
        PivlError if another process is running it, and DivergenceError with the command that
        continues it.
        """
        with _locked(self.run):
            self._load()
            self._change_optimisation(config_yaml, pinned)
            self.contract.pin(**pinned)
            self._discard_unsaved()
            try:
                with self._signals.installed():
                    yield
            except _STOPPED_FROM_OUTSIDE:
                resume = f"pivl-distill {command} --resume {self.run}"
                logger.warning(f"{self.run} is unfinished; resume it with `{resume}`.")
                raise
            except DivergenceError as error:
                change = f"`pivl-distill {command} --resume {self.run} --set {error.setting}=VALUE`"
                raise DivergenceError(
                    f"{error}\n{self._describe_saved()} Continue from there with other settings:"
                    f" {change}.",
                    error.setting,
                ) from error
        if (self.run / RUN_FILE).is_file():
            remove_state(self.run)

    def start_stage(self, stage: str) -> None:
        """Count the time from now on for `stage`."""
        self._count_time()
        self._stage = stage

    def has_reached(self, stage: str) -> bool:
        """Return whether the saved progress is that of `stage`, so that earlier ones are done."""
        return self._last is not None and self._last[0].stage == stage

    def remaining_steps(self, stage: str, steps: PKSampler, **parts: Stateful) -> RemainingSteps:
        """Return the steps of `stage` that are not completed; restore `parts` as saved before them.

        A step is completed when the next one is requested. A deferred signal is raised between two
        steps, after the state was saved.
        """
        parts["torch"] = TorchRngState()
        last, self._last = self._last, None
        if last is None or last[0].stage != stage:
            return RemainingSteps(self._iterate(stage, steps, parts), len(steps))
        saved, tensors = last
        with damage_named(self._progress_file, KIND):
            if saved.steps > len(steps):
                raise ValueError(f"it is after step {saved.steps} of {len(steps)}")
            for name, part in parts.items():
                part.load_state_dict(unpack_state(saved.parts[name], tensors))
        logger.info(f"Continuing after step {saved.steps} of {len(steps)}.")
        return RemainingSteps(self._iterate(stage, steps, parts, saved), len(steps) - saved.steps)

    def _iterate(
        self,
        stage: str,
        steps: PKSampler,
        parts: dict[str, Stateful],
        saved: SavedProgress | None = None,
    ) -> Iterator[Step]:
        with self._signals.deferred():
            for number, step in enumerate(steps, start=1):
                if saved and number <= saved.steps:
                    if number == saved.steps:
                        step.rng.bit_generator.state = saved.step_rng
                    continue
                yield step
                save_is_due = time.monotonic() - self._saved_at >= SAVE_PERIOD_S
                stop = self._signals.pending_on_any_rank()
                if not process_group.rank() and (step.ends_epoch or save_is_due or stop):
                    self._save(stage, number, step, parts)
                if stop:
                    process_group.barrier()
                    break

    def _load(self) -> None:
        """Load the last saved step."""
        if self._progress_file.is_file():
            _, tensors, metadata = load_tensors(self._progress_file, KIND)
            with damage_named(self._progress_file, KIND):
                saved = SavedProgress(**metadata)
                saved.check()
            self._last, self.seconds = (saved, tensors), saved.seconds

    def _discard_unsaved(self) -> None:
        """Discard what was written after the last saved step, and partial files."""
        if process_group.rank():
            return
        remove_partial(self.run)
        if (self.run / METRICS_FILE).is_file():
            write_text(self.run / METRICS_FILE, "" if self._last is None else self._last[0].metrics)

    def _change_optimisation(self, config_yaml: str | None, pinned: dict[str, Any]) -> None:
        """Record changed settings in config.yaml, and those of the optimisation in the contract."""
        changes = self.contract.changed_optimisation(**pinned)
        # First config.yaml: with the old contract it is changed again, with the new one it is not.
        if config_yaml is not None and not process_group.rank():
            _replace_text(self.run / CONFIG_FILE, config_yaml)
        if not changes:
            return
        listed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in changes.items())
        logger.warning(f"{self.run} continues with changed settings: {listed}.")
        saved = None if self._last is None else self._last[0]
        record = {
            "stage": None if saved is None else saved.stage,
            "steps": 0 if saved is None else saved.steps,
            "settings": {n: {"before": old, "after": new} for n, (old, new) in changes.items()},
        }
        before = self.contract.values.get(CHANGED_SETTINGS, [])
        self.contract.pin(**pinned, **{CHANGED_SETTINGS: [*before, record]})

    def _describe_saved(self) -> str:
        if not self._progress_file.is_file():
            return "No step had been saved yet, so the stage starts again."
        saved = SavedProgress(**load_tensors(self._progress_file, KIND)[2])
        return f"The state after step {saved.steps} of the stage {saved.stage} is kept."

    def _save(self, stage: str, completed: int, step: Step, parts: dict[str, Stateful]) -> None:
        require_run_folder(self.run)
        check_unchanged()
        self._count_time()
        tensors: dict[str, Tensor] = {}
        metrics = self.run / METRICS_FILE
        states = {
            name: pack_state(part.state_dict(), name, tensors) for name, part in parts.items()
        }
        saved = SavedProgress(
            stage=stage,
            steps=completed,
            step_rng=dict(step.rng.bit_generator.state),
            seconds=self.seconds,
            metrics=metrics.read_text(encoding="utf-8") if metrics.is_file() else "",
            parts=states,
        )
        save_tensors(self._progress_file, KIND, tensors, asdict(saved))
        self._saved_at = time.monotonic()

    def _count_time(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            passed = now - self._counted_until
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + passed
        self._counted_until = now


class RemainingSteps:
    """An iterable of steps with a length; it can be iterated once."""

    def __init__(self, steps: Iterator[Step], number: int) -> None:
        self._steps, self._number = steps, number

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def __len__(self) -> int:
        return self._number


def remove_state(run: Path) -> None:
    """Remove the resume state of a complete run; rank 0 does, if no other process is using it."""
    if not process_group.rank() and not is_running(run):
        shutil.rmtree(run / STATE_FOLDER, ignore_errors=True)


def require_run_folder(run: Path) -> None:
    """Raise PivlError if the folder of a run that is going on was moved or removed."""
    if not run.is_dir():
        raise PivlError(
            f"{run} was moved or removed while the run was going on, so nothing more can be saved"
            " there; move it back and resume, or start again."
        )


def _replace_text(path: Path, text: str) -> None:
    """Write a file unless it has this text: its date tells when the run was started."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def is_running(run: Path) -> bool:
    """Whether a process is running this run now, or this process may not find out."""
    if not (run / STATE_FOLDER).is_dir():
        return False
    try:
        with _locked(run):
            return False
    except (PivlError, OSError):  # OSError: the run is another user's
        return True


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run inside the block; of several processes, rank 0 does."""
    if process_group.rank():
        yield
        return
    refusal = f"Another process is running {run}; wait for it or stop it."
    with locked(run / STATE_FOLDER / LOCK_FILE, refusal):
        yield
