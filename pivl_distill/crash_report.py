"""The report of an unexpected exception: one file with all that is needed to find its cause.

It is written to the folder of the run that was going on, else to the system's temporary folder.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from pivl_distill.storage.filenames import CONFIG_FILE, CRASH_FILE
from pivl_distill.storage.files import append_bytes

PACKAGES = (
    *("pivl-distill", "torch", "torchvision", "timm", "open_clip_torch", "onnx", "onnxruntime"),
    *("onnxruntime-gpu", "tensorrt", "numpy", "pillow", "opencv-python-headless", "safetensors"),
    *("pydantic", "click", "rich", "filelock"),
)
VARIABLES = (
    *("PIVL_DISTILL_CACHE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("LANG", "LC_ALL", "PYTHONIOENCODING", "RANK", "LOCAL_RANK", "WORLD_SIZE"),
)
"""Environment variables in the report; no others, since they may be secret."""

_run_folder: Path | None = None


def report_to(folder: Path | None) -> None:
    """From now on, write reports to the folder of this run; None is the temporary folder."""
    global _run_folder
    _run_folder = folder


def write_crash_report(error: BaseException, rank: int = 0) -> Path | None:
    """Write the report of `error` and return its file; None if no folder can be written.

    A run folder gets `crash.log`, or `crash-<rank>.log` from the processes of a group with a rank
    above 0. Earlier reports in it are kept. This function raises no exception of its own.
    """
    text = _report(error).encode(errors="backslashreplace")
    if _run_folder is not None:
        name = Path(CRASH_FILE)
        file = _run_folder / (f"{name.stem}-{rank}{name.suffix}" if rank else name)
        try:
            append_bytes(file, text)
            return file
        except OSError:  # removed, read-only or full
            pass
    try:
        handle, path = tempfile.mkstemp(".log", "pivl-distill-crash-")
        with open(handle, "wb") as report:  # noqa: PTH123  (a file descriptor)
            report.write(text)
    except OSError:
        return None
    return Path(path)


def _report(error: BaseException) -> str:
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    sections = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": _working_folder(),
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "packages": ", ".join(_versions()),
        "variables": ", ".join(f"{name}={value}" for name, value in variables.items()),
    }
    lines = [f"{name}: {content}" for name, content in sections.items()]
    trace = "".join(traceback.format_exception(error))
    return "\n".join([*lines, "settings:", _settings(), trace, ""])


def _versions() -> list[str]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _settings() -> str:
    """The resolved settings of the run; without a run, the command has all of them."""
    if _run_folder is None:
        return "those of the command"
    try:
        return (_run_folder / CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"not readable: {error}"


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:  # it was removed
        return str(error)
