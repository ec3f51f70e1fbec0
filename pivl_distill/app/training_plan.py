"""Resolve the options of `teach` and `student` to settings, a prompt bank and a run folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivl_distill.app import hub
from pivl_distill.app.networks import load_network
from pivl_distill.app.run_location import RunLocation, locate_run
from pivl_distill.config import (
    DataSettings,
    StudentConfig,
    TeachConfig,
    describe_data_settings,
    given_settings,
    inherit_data_settings,
    load_config,
)
from pivl_distill.errors import PivlError
from pivl_distill.foreign import load_preprocessing
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runs.run import Run, read_data_settings
from pivl_distill.storage.filenames import BANK_FILE, CONFIG_FILE

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeachPlan:
    """Settings of a teach run, and where it writes."""

    config: TeachConfig
    location: RunLocation


@dataclass(frozen=True)
class StudentPlan:
    """Settings of a student run, the bank it learns from, and where it writes.

    `random_bank_dim` is set in a dry run without a bank: the dimension of random text features.
    `gallery` is the network for whose gallery the student is trained, if there is one.
    """

    config: StudentConfig
    bank_file: Path | None
    location: RunLocation
    random_bank_dim: int | None = None
    gallery: LoadedNetwork | None = None


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
        bank: teach run, bank file, hf-hub:OWNER/NAME or "none"; default: the latest teach run.
        max_ms: latency budget in milliseconds that chooses the architecture.
        latency_device: device of that latency.
        dry_run: whether random text features may replace a missing bank.

    Raises: PivlError for bad settings, a missing bank or run, or options that exclude each other.
    """
    if max_ms is not None and resume is not None and out is None:
        raise PivlError("--resume continues with the network of the run; remove --max-ms.")
    location = locate_run("student", out, resume)
    if bank == "none":
        overrides = {**overrides, "supervision": "none"}
    settings = load_config(StudentConfig, "student", config, overrides, location.resumed_config)
    named = bank or location.resumed_bank
    random_bank = dry_run and named is None and needs_missing_bank(settings.supervision)
    bank_file = None if random_bank else find_bank(named, settings.supervision)
    if location.resume is None:
        given = given_settings("student", config, overrides)
        settings = settings.model_copy(update={"data": _data(settings.data, given, bank_file)})
    if max_ms is not None and location.resume is None:
        from pivl_distill.app.choose_arch import choose_arch

        if "arch" in overrides:
            raise PivlError("Both --arch and --max-ms choose the network; remove one of them.")
        settings = choose_arch(settings, max_ms, latency_device)
    random_dim = bank_dim(config) if random_bank else None
    return StudentPlan(settings, bank_file, location, random_dim, find_gallery(settings))


def find_gallery(settings: StudentConfig) -> LoadedNetwork | None:
    """Load the network for whose gallery the student is trained; None without one."""
    compatible = settings.compatible
    if compatible.network is None:
        return None
    declared = None if compatible.preset is None else load_preprocessing(compatible.preset)
    return load_network(Path(compatible.network), declared)


def _data(own: DataSettings, given: dict[str, str], bank_file: Path | None) -> DataSettings:
    """Data settings that are not given, of the bank's run; without a bank, of the latest teach run.

    The latter, so that a baseline trains on the same data as the students it is compared with.
    """
    run = bank_file.parent if bank_file is not None else _latest_teach()
    if run is None or not (run / CONFIG_FILE).is_file():
        return own
    data, origins = inherit_data_settings(own, given, read_data_settings(run), str(run))
    logger.info(describe_data_settings(data, origins))
    return data


def find_bank(named: str | None, supervision: str) -> Path | None:
    """Return the bank of a run, path or hf-hub:OWNER/NAME; None without a bank.

    Default: that of the latest teach run.
    """
    if supervision == "none":
        return None
    if named is not None and named.startswith(hub.PREFIX):
        return hub.download_bank(named)
    path = Run.latest("teach").path if named is None else Path(named)
    file = path / BANK_FILE if path.is_dir() else path
    if not file.is_file():
        raise PivlError(
            f"No prompt bank at {file}; name a teach run, a bank file, hf-hub:OWNER/NAME or 'none'."
        )
    return file


def needs_missing_bank(supervision: str) -> bool:
    """Whether the supervision needs a bank and there is no finished teach run."""
    return supervision != "none" and _latest_teach() is None


def _latest_teach() -> Path | None:
    try:
        return Run.latest("teach").path
    except PivlError:
        return None


def bank_dim(config: str | None) -> int:
    """Dimension of the bank that `teach` with the same --config would write."""
    from teachers.clip_loading import joint_dim

    return joint_dim(load_config(TeachConfig, "teach", config, {}).clip.name)
