"""Where a training run writes, from --out and --resume."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.runs.run import RUNS_DIR, Run, RunKind
from pivl_distill.storage.filenames import CONFIG_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunLocation:
    """The folder of a run: a new one (`out`, default: the next in `runs/`) or `resume`."""

    out: Path | None = None
    resume: Path | None = None

    @property
    def folders(self) -> tuple[Path | None, Path | None]:
        """`out` and `resume`."""
        return self.out, self.resume

    @property
    def resumed_config(self) -> str | None:
        """Path of the config.yaml of the run to resume."""
        return None if self.resume is None else str(self.resume / CONFIG_FILE)

    @property
    def resumed_bank(self) -> str | None:
        """Path of the bank that the run to resume learns from."""
        if self.resume is None:
            return None
        contract = Run(self.resume).progress.contract
        bank = contract.values.get("bank")
        if bank is None:
            return None
        if not isinstance(bank, dict) or not isinstance(bank.get("file"), str):
            raise PivlError(
                f"{contract.file} is damaged: it does not name the bank; start a new run."
            )
        return str(bank["file"])


def locate_run(kind: RunKind, out: Path | None, resume: str | None) -> RunLocation:
    """Return the location that --out and --resume name; `resume` is "" for the latest run.

    With both options the run in `out` is resumed if there is one and started otherwise, so that
    one command serves a job that may be restarted. Rank 0 decides for all processes. Raises
    PivlError if there is no run to resume.
    """
    return process_group.broadcast_object(lambda: _locate_run(kind, out, resume))


def _locate_run(kind: RunKind, out: Path | None, resume: str | None) -> RunLocation:
    if resume is None:
        latest = Run.find_all(kind)[-1:]
        if latest and latest[0].is_stopped:
            path = latest[0].path
            logger.warning(
                f"{path} is unfinished; `pivl-distill {kind} --resume {path}` continues it."
            )
        return RunLocation(out)
    if resume and out:
        raise PivlError("--resume RUN writes to the folder of that run; remove --out.")
    if out is not None and not (out / CONFIG_FILE).is_file():
        return RunLocation(out)
    if out is not None or resume:
        return RunLocation(resume=Run.open_unfinished(kind, out or Path(resume)).path)
    stopped = [run.path for run in Run.find_all(kind) if run.is_stopped]
    if not stopped:
        raise PivlError(f"No unfinished {kind} run in {RUNS_DIR.resolve()}; name it: --resume RUN.")
    return RunLocation(resume=stopped[-1])
