"""Resolve the options of `teach` and `student` to settings, a prompt bank and a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivl_distill.app.run_location import RunLocation, locate_run
from pivl_distill.config import (
    CACHE_LIMITS,
    DataSettings,
    StudentConfig,
    TeachConfig,
    load_config,
)
from pivl_distill.errors import PivlError
from pivl_distill.runs.filenames import BANK_FILE
from pivl_distill.runs.run import Run, read_data_settings

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice


@dataclass(frozen=True)
class TeachPlan:
    """Settings of a teach run, and where it writes."""

    config: TeachConfig
    location: RunLocation


@dataclass(frozen=True)
class StudentPlan:
    """Settings of a student run, the bank it learns from, and where it writes.

    `random_bank_dim` is set in a dry run without a bank: the dimension of random text features.
    """

    config: StudentConfig
    bank_file: Path | None
    location: RunLocation
    random_bank_dim: int | None = None


def plan_teach(
    config: str | None, overrides: dict[str, Any], out: Path | None, resume: str | None
) -> TeachPlan:
    """Resolve the options of `teach`; see `load_config` and `locate_run`."""
    location = locate_run("teach", out, resume)
    settings = load_config(TeachConfig, "teach", config, overrides, location.resumed_config)
    return TeachPlan(settings, location)


def plan_student(
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    *,
    bank: str | None = None,
    max_ms: float | None = None,
    latency_device: ExecutionDevice = "cpu",
    dry_run: bool = False,
) -> StudentPlan:
    """Resolve the options of `student`.

    Args:
        config: YAML file, or the name of one in `configs/`.
        overrides: values by dotted setting name.
        out: run folder; default: the next in `runs/`.
        resume: run to resume; "" for the latest.
        bank: teach run, bank file or "none"; default: the latest teach run.
        max_ms: latency budget in milliseconds that chooses the architecture.
        latency_device: device of that latency.
        dry_run: whether random text features may replace a missing bank.

    Raises: PivlError for bad settings, a missing bank or run, or options that exclude each other.
    """
    if max_ms is not None and resume is not None and out is None:
        raise PivlError("--resume continues with the network that was begun; leave --max-ms away.")
    location = locate_run("student", out, resume)
    if bank == "none":
        overrides = {**overrides, "supervision": "none"}
    settings = load_config(StudentConfig, "student", config, overrides, location.resumed_config)
    named = bank or location.resumed_bank
    random_bank = dry_run and named is None and needs_missing_bank(settings.supervision)
    if random_bank:
        bank_file, data = None, settings.data
    else:
        bank_file, data = find_bank(named, settings.supervision)
    chosen_data = config is not None or any(
        key.startswith("data.") and key not in CACHE_LIMITS["student"] for key in overrides
    )
    if location.resume is None and not chosen_data:
        kept = {"crop_cache_gib": settings.data.crop_cache_gib}
        settings = settings.model_copy(update={"data": data.model_copy(update=kept)})
    if max_ms is not None and location.resume is None:
        from pivl_distill.app.choose_arch import choose_arch

        if "arch" in overrides:
            raise PivlError("Either --arch names the student or --max-ms chooses it; drop one.")
        settings = choose_arch(settings, max_ms, latency_device)
    return StudentPlan(settings, bank_file, location, bank_dim(config) if random_bank else None)


def find_bank(named: str | None, supervision: str) -> tuple[Path | None, DataSettings]:
    """Return the bank file of a run or path and the data settings of its run.

    The default is the latest teach run. Without a bank (supervision "none") the data settings are
    still those of the latest teach run, so that a baseline trains on the same data.
    """
    if supervision == "none":
        try:
            return None, Run.latest("teach").data_settings
        except PivlError:
            return None, DataSettings()
    path = Run.latest("teach").path if named is None else Path(named)
    file = path / BANK_FILE if path.is_dir() else path
    if not file.is_file():
        raise PivlError(f"No prompt bank at {file}; name a teach run, a bank file, or 'none'.")
    return file, read_data_settings(file.parent)


def needs_missing_bank(supervision: str) -> bool:
    """Whether the supervision needs a bank and there is no finished teach run."""
    if supervision == "none":
        return False
    try:
        Run.latest("teach")
    except PivlError:
        return True
    return False


def bank_dim(config: str | None) -> int:
    """Dimension of the bank that `teach` with the same --config would write."""
    from teachers.clip import joint_dim

    return joint_dim(load_config(TeachConfig, "teach", config, {}).clip.name)
