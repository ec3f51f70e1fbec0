"""From what the user names — a run, a checkpoint, an export, nothing — to what a command needs.

Stages are imported where they are used: a student must not load CLIP, nor a teacher ONNX.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pivl_distill.config import DataSettings, TeachConfig, load_config
from pivl_distill.console import note
from pivl_distill.data.datasets import load_dataset
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.evaluation import (
    CPU,
    QueryGalleryCrops,
    QueryGalleryFeatures,
    embed_query_gallery,
    evaluate_features,
)
from pivl_distill.runs.filenames import BANK_FILE, CHECKPOINT_FILES, CONFIG_FILE, FP32_FILE
from pivl_distill.runs.run import RUNS_DIR, Run, RunKind, check_empty, read_data_settings
from pivl_distill.storage.tensors import is_foreign, load_tensors
from pivl_distill.training.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from export.accuracy import ExportPrecision
    from export.engines.engine_info import BatchProfile
    from export.engines.library import EngineLibrary
    from export.exporter import EngineReport, ExportReport

UNSEEN = DataSettings(spec="synthetic:tiny")
"""What the export of a published checkpoint is verified on where no data set is named."""

EXPORTED = (".onnx", ".engine")


@dataclass(frozen=True)
class RunLocation:
    """Where a run goes: `out`, else the next folder in `runs/`; or `resume`, to be continued."""

    out: Path | None = None
    resume: Path | None = None

    @property
    def begun_config(self) -> str | None:
        """The config.yaml of the run to be continued."""
        return None if self.resume is None else str(self.resume / CONFIG_FILE)

    @property
    def begun_bank(self) -> str | None:
        """The bank that the run to be continued was begun with."""
        bank = (
            None if self.resume is None else Run(self.resume).progress.contract.values.get("bank")
        )
        return None if bank is None else str(bank["file"])


def locate_run(kind: RunKind, out: Path | None, resume: str | None) -> RunLocation:
    """The place that --out and --resume name; --resume without a RUN is "".

    With --out and --resume together the run in that folder is continued, or begun if there is none:
    one command for a job that may be sent away and started again. Several processes go where the
    first finds that they should.
    """
    return process_group.broadcast_object(lambda: _locate_run(kind, out, resume))


def _locate_run(kind: RunKind, out: Path | None, resume: str | None) -> RunLocation:
    if resume is None:
        latest = Run.find_all(kind)[-1:]
        if latest and latest[0].is_stopped:
            path = latest[0].path
            note(f"{path} is unfinished; `pivl-distill {kind} --resume {path}` continues it.")
        return RunLocation(out)
    if resume and out:
        raise PivlError("--resume RUN continues in its own folder; leave --out away.")
    if out is not None:
        begun = (out / CONFIG_FILE).is_file()
        return (
            RunLocation(resume=Run.open_unfinished(kind, out).path) if begun else RunLocation(out)
        )
    if resume:
        return RunLocation(resume=Run.open_unfinished(kind, Path(resume)).path)
    stopped = [run.path for run in Run.find_all(kind) if run.is_stopped]
    if not stopped:
        raise PivlError(f"No unfinished {kind} run in {RUNS_DIR.resolve()}; name it: --resume RUN.")
    return RunLocation(resume=stopped[-1])


def find_bank(named: str | None, supervision: str) -> tuple[Path | None, DataSettings]:
    """The bank file of a run or path, the latest teach run's by default, and its data settings.

    Without a bank ("none") the data are still those of the latest teach run, so that a baseline
    sees what its rivals see.
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
    """Whether the supervision needs a bank and no teach run has left one yet."""
    if supervision == "none":
        return False
    try:
        Run.latest("teach")
    except PivlError:
        return True
    return False


def bank_dim(config: str | None) -> int:
    """Dimensions of the bank that `teach` with the same --config would make."""
    from teachers.clip import joint_dim

    return joint_dim(load_config(TeachConfig, "teach", config, {}).clip.name)


@dataclass(frozen=True)
class Cameras:
    """How a network with camera vectors (SIE) is used; None leaves each crop's camera an input."""

    choice: str | None = None
    coefficient: float = 1.0


def export_checkpoint(
    source: Path,
    spec: str | None,
    out: Path | None,
    cameras: Cameras = Cameras(),
    *,
    precisions: Collection[ExportPrecision] = (),
    cached: bool = True,
    **options: Any,
) -> ExportReport:
    """Export the checkpoint of a run or path into a run folder of its own, verified on its data.

    With `cached` its decoded crops may come from the cache folder and stay there; `options` are
    those of `export.exporter.export_model`. The folder is made when all that is needed has been
    read, so that what is missing leaves nothing behind.
    """
    from export.calibration import calibration_crops
    from export.exporter import export_model
    from export.manifest_schema import TestData

    if out is not None:
        check_empty(out)  # before the work, not after it
    path = _find_checkpoint(source)
    foreign = is_foreign(path) and spec is None
    data = UNSEEN if foreign else _data_settings(path.parent, spec)
    model = load_checkpoint(path, cameras)
    dataset = load_dataset(data.spec)
    cache_gib = data.crop_cache_gib if cached else 0
    test = QueryGalleryCrops.load(dataset, model.size_hw, cache_gib)
    if foreign and model.cameras:
        test = test.clamp_camera_ids(model.cameras)
    wanted = "int8" in precisions
    calibration = calibration_crops(dataset.train, model.size_hw) if wanted else None
    config = {"export": {"source": str(path), "data": data.model_dump(mode="json")}}
    run = Run.create("export", yaml.safe_dump(config, sort_keys=False), out)
    report = export_model(
        model,
        run.path,
        test=test,
        calibration=calibration,
        precisions=precisions,
        source=path,
        data=TestData(spec=data.spec, name=dataset.name, fingerprint=dataset.test_fingerprint),
        **options,
    )
    camera = {"camera": cameras.choice, "sie_coefficient": cameras.coefficient}
    run.finish("export", source=str(path.resolve()), **camera)
    return report


@dataclass(frozen=True)
class Engines:
    """Which engines to build beside an exported file, for which batches, in how much memory."""

    libraries: tuple[EngineLibrary, ...]
    batch: str
    workspace_mib: int | None

    def profile(self) -> BatchProfile:
        """The batches; PivlError if they are none."""
        from export.engines.engine_info import BatchProfile

        return BatchProfile.parse(self.batch)

    def build(self, report: ExportReport) -> Iterator[EngineReport]:
        """One engine after the other, of every precision of the export."""
        from export.exporter import add_engine

        workspace_bytes = None if self.workspace_mib is None else self.workspace_mib << 20
        precisions = dict.fromkeys(artifact.precision for artifact in report.manifest.artifacts)
        for library, precision in itertools.product(self.libraries, precisions):
            yield add_engine(
                report, precision, library, self.profile(), workspace_bytes=workspace_bytes
            )


@dataclass(frozen=True)
class Evaluation:
    """What was scored, on which data, and how it did."""

    path: Path
    spec: str
    result: RetrievalResult
    features: QueryGalleryFeatures
    test: QueryGalleryCrops


def evaluate_target(
    target: Path,
    spec: str | None,
    cameras: Cameras = Cameras(),
    *,
    cached: bool = True,
) -> Evaluation:
    """Score a run, a checkpoint, or an exported file or engine; `cached` as in exporting."""
    keep_freed_memory(CPU)
    exported = target.suffix in EXPORTED
    if exported or (target / FP32_FILE).is_file():
        from export.loading import load_exported

        path = target if exported else target / FP32_FILE
        if not path.is_file():
            raise PivlError(f"No ONNX file or engine at {path}.")
        model, forward = load_exported(path)
    else:
        path = _find_checkpoint(target)
        if is_foreign(path) and spec is None:
            raise PivlError(f"Name the data set to score {path} on with --data.")
        model, forward = load_checkpoint(path, cameras), None
    data = _data_settings(path.parent, spec)
    cache_gib = data.crop_cache_gib if cached else 0
    test = QueryGalleryCrops.load(load_dataset(data.spec), model.size_hw, cache_gib)
    features = embed_query_gallery(model, test, forward)
    return Evaluation(path, data.spec, evaluate_features(features, test), features, test)


def load_checkpoint(
    path: Path,
    cameras: Cameras = Cameras(),
) -> EmbeddingModel:
    """The bare network in a student's, a teacher's or a published checkpoint."""
    model = _bare_network(path, cameras.coefficient)
    if cameras.choice is None:
        return model
    from teachers.teacher import with_camera

    return with_camera(model, cameras.choice)


def _bare_network(path: Path, sie_coefficient: float) -> EmbeddingModel:
    if is_foreign(path):
        from teachers.clip_reid_checkpoint import load_released

        return load_released(path, sie_coefficient).embedding_model()
    kind, _, _ = load_tensors(path, "student", "teacher")
    if kind == "student":
        from students.student import load_student

        return load_student(path)
    from teachers.teacher import load_teacher

    return load_teacher(path)


def _find_checkpoint(source: Path) -> Path:
    if source.is_file():
        return source
    for name in CHECKPOINT_FILES:
        if (Run.open(source).path / name).is_file():
            return source / name
    raise PivlError(f"{source} holds none of {', '.join(CHECKPOINT_FILES)}.")


def _data_settings(folder: Path, spec: str | None) -> DataSettings:
    return read_data_settings(folder) if spec is None else DataSettings(spec=spec)
