"""Exact resume: a run may be stopped anywhere and goes on to the same bytes as one in one go.

While a run is unfinished, its folder has a folder `state/` with

- `contract.json`: what the run was begun with; it goes on with exactly that, or not at all;
- `progress.safetensors`: all that changes from step to step, as it was after the last saved step —
  weights, optimizer moments, running totals, random generators, the lines of metrics.jsonl;
- `lock`: held by the process that is at it.

Files are replaced as a whole, so a run killed at any moment has the old one or the new one. What
was done after the last saved step is undone and done again. Nothing is ever unpickled.

Of several processes at a run the first writes and all read. Nothing is about any one of them, so a
run goes on with more of them or fewer.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

import pivl_distill
from pivl_distill.config import CACHE_LIMITS
from pivl_distill.console import note
from pivl_distill.data.sampling import PKSampler, Step
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import locked, remove_partial, write_json, write_text
from pivl_distill.storage.tensors import load_tensors, save_tensors

STATE = "state"
METRICS = "metrics.jsonl"
FINISHED = "run.json"
KIND = "training progress"

SAVE_PERIOD_S = 300.0
"""Progress is saved at the end of each epoch, and after this time within a longer one."""

MACHINE = "machine"
"""What a run is begun on may change, but then the last bits may, which is said."""

CHANGEABLE = ("bank.file", *(f"config.{key}" for keys in CACHE_LIMITS.values() for key in keys))
"""Where something lies may change, and what is kept in the cache folder."""


class Stateful(Protocol):
    """What steps change and what is brought back: networks, optimizers, running totals."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class Saved:
    """What `progress.safetensors` holds beside its tensors."""

    stage: str
    steps: int
    """Steps of the stage that were done."""
    step_rng: dict[str, Any]
    """State of the random numbers that the last of them drew from."""
    seconds: dict[str, float]
    metrics: str
    parts: dict[str, Any]
    """State of each part, as `_pack` writes it."""


class Progress:
    """How far a run is."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seconds: dict[str, float] = {}
        """Time spent in each stage that was entered, over all sittings but what was undone."""
        self._contract_file = run / STATE / "contract.json"
        self._progress_file = run / STATE / "progress.safetensors"
        self._last: tuple[Saved, dict[str, Tensor]] | None = None
        self._entered: str | None = None
        self._counted_until = self._saved_at = time.monotonic()
        self._signals = _Signals()

    @property
    def contract(self) -> dict[str, Any]:
        """What was pinned so far."""
        if not self._contract_file.is_file():
            return {}
        contract: dict[str, Any] = json.loads(self._contract_file.read_text(encoding="utf-8"))
        return contract

    @contextmanager
    def session(self, command: str, **begun_with: Any) -> Iterator[None]:
        """Inside, the run is begun or continued, with `begun_with` pinned.

        SIGTERM (exit code 143) and Ctrl-C (KeyboardInterrupt) end it where it can be continued with
        `pivl-distill <command>`, which is said. Raises PivlError if another process is at it.
        """
        with _locked(self.run):
            self.pin(**begun_with)
            self._go_back()
            try:
                with self._signals.handled():
                    yield
            except (KeyboardInterrupt, SystemExit, process_group.PeerProcessError):
                how = f"pivl-distill {command} --resume {self.run}"
                note(f"{self.run} is unfinished; continue it with `{how}`.")
                raise
        if not process_group.rank() and (self.run / FINISHED).is_file():
            shutil.rmtree(self.run / STATE)

    def pin(self, **metadata: Any) -> None:
        """Put JSON values into the contract; PivlError tells where it says something else."""
        known = self.contract
        changed = {
            name: line
            for fact, value in metadata.items()
            if fact in known
            for name, line in _differences(known[fact], value, fact).items()
        }
        broken = [
            line for name, line in changed.items() if not name.startswith((MACHINE, *CHANGEABLE))
        ]
        if broken:
            told = "\n".join([f"{self.run} was begun with something else:", *broken])
            raise PivlError(f"{told}\nUndo the change to continue it, or start a new run.")
        if other_machine := [line for name, line in changed.items() if name.startswith(MACHINE)]:
            note("\n".join(["The result may differ in its last bits:", *other_machine]))
        if not process_group.rank():
            write_json(self._contract_file, known | metadata)

    def enter(self, stage: str) -> None:
        """From here on, time counts for `stage`."""
        self._count_time()
        self._entered = stage

    def remaining(self, stage: str, steps: PKSampler, **parts: Stateful) -> RemainingSteps:
        """The steps of `stage` that are left, with `parts` brought to where they were before them.

        A step counts as done when the next one is asked for. Between two, when all is saved, a
        signal that came meanwhile is raised.
        """
        parts["torch"] = _TorchRngState()
        last, self._last = self._last, None
        if last is None or last[0].stage != stage:
            return RemainingSteps(self._walk(stage, steps, parts), len(steps))
        saved, tensors = last
        for name, part in parts.items():
            part.load_state_dict(_unpack(saved.parts[name], tensors))
        note(f"Continuing after step {saved.steps} of {len(steps)}.")
        return RemainingSteps(self._walk(stage, steps, parts, saved), len(steps) - saved.steps)

    def _walk(
        self, stage: str, steps: PKSampler, parts: dict[str, Stateful], saved: Saved | None = None
    ) -> Iterator[Step]:
        with self._signals.held():
            for number, step in enumerate(steps, start=1):
                if saved and number <= saved.steps:
                    if number == saved.steps:
                        step.rng.bit_generator.state = saved.step_rng
                    continue
                yield step
                late = time.monotonic() - self._saved_at >= SAVE_PERIOD_S
                stop = self._signals.agreed()
                if not process_group.rank() and (step.ends_epoch or late or stop):
                    self._save(stage, number, step, parts)
                if stop:
                    process_group.barrier()
                    break

    def _go_back(self) -> None:
        """Undo what was done after the last saved step, or half-done."""
        if not process_group.rank():
            remove_partial(self.run)
        metrics = ""
        if self._progress_file.is_file():
            _, tensors, metadata = load_tensors(self._progress_file, KIND)
            saved = Saved(**metadata)
            self._last, self.seconds, metrics = (saved, tensors), saved.seconds, saved.metrics
        if not process_group.rank() and (self.run / METRICS).is_file():
            write_text(self.run / METRICS, metrics)

    def _save(self, stage: str, done: int, step: Step, parts: dict[str, Stateful]) -> None:
        self._count_time()
        tensors: dict[str, Tensor] = {}
        metrics = self.run / METRICS
        saved = Saved(
            stage=stage,
            steps=done,
            step_rng=dict(step.rng.bit_generator.state),
            seconds=self.seconds,
            metrics=metrics.read_text(encoding="utf-8") if metrics.is_file() else "",
            parts={name: _pack(part.state_dict(), name, tensors) for name, part in parts.items()},
        )
        save_tensors(self._progress_file, KIND, tensors, asdict(saved))
        self._saved_at = time.monotonic()

    def _count_time(self) -> None:
        now = time.monotonic()
        if self._entered is not None:
            passed = now - self._counted_until
            self.seconds[self._entered] = self.seconds.get(self._entered, 0.0) + passed
        self._counted_until = now


class RemainingSteps:
    """Steps that are left; to be iterated once."""

    def __init__(self, steps: Iterator[Step], number: int) -> None:
        self._steps, self._number = steps, number

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def __len__(self) -> int:
        return self._number


def machine(device: torch.device) -> dict[str, Any]:
    """What decides the last bits of a result beside its settings."""
    return {
        "device": device.type,
        "processes": process_group.world_size(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pivl-distill": pivl_distill.__version__,
    }


def is_running(run: Path) -> bool:
    """Whether a process is at this run now."""
    if not (run / STATE).is_dir():
        return False
    try:
        with _locked(run):
            return False
    except PivlError:
        return True


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Process 0 holds the lock for all of them."""
    if process_group.rank():
        yield
        return
    refusal = f"Another process is running {run}; wait for it or stop it."
    with locked(run / STATE / "lock", refusal):
        yield


class _Signals:
    """SIGTERM and Ctrl-C; while held, the first of them waits. A second one never does.

    Of several processes each is told more than once, by its terminal or queue and by torchrun, so
    there all of them wait; torchrun kills what takes too long.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._holding = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Only the main thread may; elsewhere, and where a signal is ignored, all stays as is."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        ours = [n for n, handler in before.items() if in_main_thread and handler != signal.SIG_IGN]
        for number in ours:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number] or signal.SIG_DFL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What waits is raised at the end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.waiting is not None:
            self._raise(self.waiting)

    def agreed(self) -> bool:
        """Whether one waits, here or in another process: all stop after the same step."""
        self.waiting = process_group.all_reduce_max(self.waiting or 0) or None
        return self.waiting is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._holding and (self.waiting is None or process_group.world_size() > 1):
            self.waiting = number
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


class _TorchRngState:
    """torch's global generators, which dropout and the like draw from."""

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["cpu"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON; its tensors go to `tensors`, named by where they are."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name, "stride": value.stride()}
    if isinstance(value, dict):  # keys of JSON objects are text, those of optimizers are not
        return {"dict": [[key, _pack(v, f"{name}.{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
    return value


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "dict" in packed:
        return {key: _unpack(item, tensors) for key, item in packed["dict"]}
    # In memory as before: fused optimizers take moments to lie as their parameters do.
    tensor = tensors[packed["tensor"]]
    laid_out = torch.empty_strided(tensor.shape, packed["stride"], dtype=tensor.dtype)
    return laid_out.copy_(tensor)


def _differences(before: Any, now: Any, name: str) -> dict[str, str]:
    """Dotted names of what differs between two JSON values, with a line about each."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            inner: line
            for key in {**before, **now}
            for inner, line in _differences(before.get(key), now.get(key), f"{name}.{key}").items()
        }
    return {} if before == now else {name: f"  {name} was {before}, now {now}"}
