"""The runs that a page is about, and what their files say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from export.manifest_schema import Manifest, read_manifest
from pivl_distill.config import DataSettings, read_yaml
from pivl_distill.errors import PivlError
from pivl_distill.runs.metrics import read_metrics
from pivl_distill.runs.run import RUNS_DIR, Run, RunKind
from pivl_distill.storage.filenames import CHECKPOINT_FILES, CONFIG_FILE, RUN_FILE

logger = logging.getLogger(__name__)

SUPERVISION = {
    "none": "labels alone",
    "identity": "identity texts",
    "label": "part words",
    "part": "part texts",
    "permuted": "permuted texts",
}
"""Value of `supervision` → what a network learns from in addition to labels."""
EMBEDDING_TERMS = ("embedding", "anchors", "relation", "relaxed_contrastive", "logits")
"""Loss terms that compare a student with the teacher; see `distill`."""


@dataclass(frozen=True, eq=False)
class ReportRun:
    """A finished run, with its files as they were when the page was made."""

    path: Path
    kind: RunKind
    name: str
    """Of the run on the page: the folder's name, with parents if names repeat."""
    config: dict[str, Any]
    """The settings of config.yaml; empty if there is none."""
    summary: dict[str, Any]
    """run.json."""
    metrics: list[dict[str, Any]] = field(repr=False)
    """Lines of metrics.jsonl, in order."""
    manifest: Manifest | None = field(default=None, repr=False)
    """Of an export."""

    @property
    def checkpoint(self) -> Path | None:
        """The trained network; None for an export, and for a run whose file was removed."""
        if self.kind == "export":
            return None
        paths = (self.path / name for name in CHECKPOINT_FILES)
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def data(self) -> DataSettings:
        """Data settings of the run."""
        return Run(self.path).data_settings

    @property
    def architecture(self) -> str:
        """Name of the network, e.g. "mobilenetv2_025"."""
        if self.manifest is not None:
            return self.manifest.name
        return str(self.config.get("arch") or self.config.get("clip", {}).get("name", "CLIP-ReID"))

    @property
    def supervision(self) -> str:
        """What the network learned from, in addition to identity labels."""
        if "supervision" not in self.config:
            return "unknown"
        learned = str(self.config["supervision"])
        words = [SUPERVISION.get(learned, learned)]
        if any(term in line for line in self.metrics for term in EMBEDDING_TERMS):
            words = [*(words if learned != "none" else []), "teacher's embeddings"]
        return " and ".join(words)

    @property
    def label(self) -> str:
        """Name with what tells it from other runs, for legends."""
        detail = {"teach": "teacher", "student": self.supervision, "export": "export"}[self.kind]
        return f"{self.name} ({detail})"


def find_runs(paths: Sequence[Path]) -> list[ReportRun]:
    """Read the runs in these folders; default: the latest finished run of each kind.

    Raises PivlError, before anything is computed, for a folder without a finished run, and if
    there is no run at all.
    """
    folders = list({path.resolve(): path for path in paths or latest_runs()}.values())
    names = distinct_names(folders)
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def latest_runs() -> list[Path]:
    """Return the folders of the latest finished run of each kind; PivlError if there is none."""
    folders = []
    for kind in get_args(RunKind):
        try:
            folders.append(Run.latest(kind).path)
        except PivlError:
            continue
    if not folders:
        raise PivlError(
            f"No finished run in {RUNS_DIR.resolve()}; run `pivl-distill teach`, `student` or"
            " `export` first, or name the folders of runs."
        )
    return folders


def workspace_runs(known: Sequence[ReportRun]) -> list[ReportRun]:
    """Return the `known` runs and all other finished ones in `runs/`, in the order of their end.

    A run that cannot be read is left out, with a warning.
    """
    seen = {run.path.resolve() for run in known}
    finished = sorted(RUNS_DIR.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    folders = [file.parent for file in finished if file.parent.resolve() not in seen]
    names = distinct_names([*(run.path for run in known), *folders])[len(known) :]
    others = []
    for folder, name in zip(folders, names, strict=True):
        try:
            others.append(read_run(folder, name))
        except PivlError as error:
            logger.warning(f"{folder} is left out of the report: {error}")
    return [*known, *others]


def read_run(path: Path, name: str) -> ReportRun:
    """Read the files of a finished run. Raises PivlError if one is missing or damaged."""
    run = Run.open(path)
    kind = next((known for known in get_args(RunKind) if known == run.kind), None)
    if kind is None:
        raise PivlError(f"{path} is a run of the kind '{run.kind}', which a report cannot show.")
    manifest = read_manifest(path) if kind == "export" else None
    return ReportRun(path, kind, name, _config(path), run.metadata, read_metrics(path), manifest)


def _config(path: Path) -> dict[str, Any]:
    """The settings of a run, without the name of the command that they are under."""
    if not (path / CONFIG_FILE).is_file():
        return {}
    sections = list(read_yaml(path / CONFIG_FILE, "settings").values())
    return sections[0] if len(sections) == 1 and isinstance(sections[0], dict) else {}


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of these paths that differ from each other.

    >>> distinct_names([Path("a/student-1"), Path("b/student-1"), Path("b/teach-1")])
    ['a/student-1', 'b/student-1', 'teach-1']
    """
    parts = [path.resolve().parts for path in folders]
    names = []
    for own in parts:
        others = [other for other in parts if other is not own]
        count = 1
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        names.append(str(Path(*own[-count:])))
    return names
