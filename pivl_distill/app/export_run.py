"""Export a checkpoint into a run folder, and build engines next to the ONNX files."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from pivl_distill.app.networks import (
    CAMERAS_AS_INPUT,
    Cameras,
    find_checkpoint,
    load_checkpoint,
    load_network,
    refuse_preprocessing,
)
from pivl_distill.app.targets import OTHER_DATA, data_settings
from pivl_distill.config import DataSettings, DeviceChoice, Preprocessing
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.scorable import check_scorable
from pivl_distill.data.store import CropStore
from pivl_distill.device import pick_device
from pivl_distill.errors import PivlError
from pivl_distill.foreign import is_foreign_network
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from pivl_distill.retrieval.robustness import CorruptedSplit, check_scored
from pivl_distill.runs.run import Run, check_run_folder
from pivl_distill.storage.filenames import utf8_name
from pivl_distill.storage.tensors import is_foreign

if TYPE_CHECKING:
    from export.accuracy import AccuracyBudget, ExportPrecision
    from export.engine_exporter import EngineReport
    from export.engines.engine_info import BatchProfile
    from export.engines.library import EngineLibrary
    from export.exporter import ExportReport
    from export.manifest_schema import TestData
    from export.source import ExportSource

UNSCORED_CROPS, UNSCORED_SEED = 1024, 1
"""Training crops on which the export of a run without evaluation is verified, and their seed,
which is not that of the calibration crops."""

UNSEEN = DataSettings(spec="synthetic:tiny")
"""Data on which the export of a published checkpoint is verified if no data set is named."""


@dataclass(frozen=True)
class ExportOptions:
    """What to write: precisions in addition to fp32, allowed losses, and form of the graph.

    `budgets` replace the default ones; `normalize` adds L2 normalisation to the graph,
    `bake_preprocessing` all preprocessing but resizing. `corrupted` is what is corrupted to measure
    the robustness of each file; None leaves it out.
    """

    precisions: Collection[ExportPrecision] = ()
    budgets: dict[ExportPrecision, AccuracyBudget] | None = None
    normalize: bool = False
    bake_preprocessing: bool = False
    corrupted: CorruptedSplit | None = None


def export_checkpoint(
    source: Path,
    spec: str | None = None,
    out: Path | None = None,
    cameras: Cameras = CAMERAS_AS_INPUT,
    options: ExportOptions = ExportOptions(),
    *,
    preprocessing: Preprocessing | None = None,
    cached: bool = True,
    device: DeviceChoice = "cpu",
) -> ExportReport:
    """Export a network into a new run folder and verify every file on the test split.

    Args:
        source: run folder, checkpoint, or ONNX file of others.
        spec: data set to calibrate and verify on; default: the run's own.
        out: run folder; default: the next in `runs/`.
        cameras: how camera embeddings (SIE) are used.
        options: what to write.
        preprocessing: of an ONNX file of others.
        cached: whether the cache of decoded crops is used.
        device: where torch computes the reference features; ONNX files run on the CPU.

    Raises: PivlError for bad input, ExportError if a file fails its verification.
    """
    from export.exporter import export_model

    compute_device = pick_device(device)  # both checks before the work, not after it
    check_run_folder(out)
    path, exported, model, data = _open_source(source, spec, cameras, preprocessing, options)
    dataset = load_dataset(data.spec)
    test = load_test_crops(dataset, model.size_hw, data, cached=cached)
    if data is UNSEEN and model.cameras:
        test = test.clamp_camera_ids(model.cameras)
    crops = _calibration_crops(dataset, model.size_hw, options.precisions)
    if options.corrupted is not None:
        check_scored(test)  # all inputs have been read now: bad input leaves no folder behind
    run = Run.create("export", _config_yaml(path, data, preprocessing), out)
    report = export_model(
        exported,
        run.path,
        test=test,
        calibration=crops,
        source=path,
        data=_test_data(data, dataset),
        device=compute_device,
        **vars(options),
    )
    run.finish("export", source=str(path.resolve()), **cameras.metadata())
    return report


def load_test_crops(
    dataset: ReIDDataset, size_hw: tuple[int, int], data: DataSettings, *, cached: bool
) -> QueryGalleryCrops:
    """Query and gallery; a sample of the training split for a run without evaluation."""
    if data.evaluation:
        check_scorable(dataset, OTHER_DATA)
        return QueryGalleryCrops.load(dataset, size_hw, data.crop_cache_gib if cached else 0)
    return QueryGalleryCrops.load_unscored(*unscored_records(dataset), size_hw)


def unscored_records(dataset: ReIDDataset) -> tuple[Sequence[Record], Sequence[Record]]:
    """The sample of the training split, in two halves; the same records if there is only one."""
    from export.calibration import sample_records

    sample = sample_records(dataset.train, UNSCORED_CROPS, UNSCORED_SEED)
    half = (len(sample) + 1) // 2
    return sample[:half], sample[half:] or sample


def _test_data(data: DataSettings, dataset: ReIDDataset) -> TestData:
    """Return the description of the crops of `load_test_crops` for the manifest."""
    from export.manifest_schema import TestData

    fingerprint = dataset.test_fingerprint if data.evaluation else dataset.fingerprint
    return TestData(spec=utf8_name(data.spec), name=dataset.name, fingerprint=fingerprint)


def _calibration_crops(
    dataset: ReIDDataset, size_hw: tuple[int, int], precisions: Collection[ExportPrecision]
) -> CropStore | None:
    from export.calibration import calibration_crops

    return calibration_crops(dataset.train, size_hw) if "int8" in precisions else None


class _Opened(NamedTuple):
    """What is exported, and what verifies it."""

    path: Path
    exported: EmbeddingModel | ExportSource
    model: EmbeddingModel
    data: DataSettings


def _open_source(
    source: Path,
    spec: str | None,
    cameras: Cameras,
    preprocessing: Preprocessing | None,
    options: ExportOptions,
) -> _Opened:
    """Load a checkpoint, or open an ONNX file of others."""
    if is_foreign_network(source):
        data = _named_data(source, spec)
        exported = _foreign_source(source, preprocessing, options)
        return _Opened(source, exported, exported.model, data)
    refuse_preprocessing(source, preprocessing)
    path = find_checkpoint(source)
    data = UNSEEN if spec is None and is_foreign(path) else data_settings(path.parent, spec)
    model = load_checkpoint(path, cameras)
    return _Opened(path, model, model, data)


def _named_data(path: Path, spec: str | None) -> DataSettings:
    """Return the data set that verifies a network of others; raises PivlError if none is named."""
    if spec is None:
        raise PivlError(f"Name the data set to verify {path} on with --data.")
    return DataSettings(spec=spec)


def _foreign_source(
    path: Path, preprocessing: Preprocessing | None, options: ExportOptions
) -> ExportSource:
    """Open an ONNX file of others to export it; raises PivlError if that is impossible."""
    from export.foreign_source import foreign_source

    if options.normalize or options.bake_preprocessing:
        raise PivlError(
            f"The graph of {path} is kept as it is: --normalize and --bake-preprocessing are for"
            " checkpoints."
        )
    return foreign_source(load_network(path, preprocessing))


def _config_yaml(
    checkpoint: Path, data: DataSettings, preprocessing: Preprocessing | None = None
) -> str:
    config = {"source": str(checkpoint), "data": data.model_dump(mode="json")}
    if preprocessing is not None:
        config["preprocessing"] = preprocessing.model_dump(mode="json")
    return yaml.safe_dump({"export": config}, sort_keys=False)


@dataclass(frozen=True)
class Engines:
    """Engines to build from the ONNX files: libraries, batch sizes, workspace in MiB."""

    libraries: tuple[EngineLibrary, ...]
    batch: str
    workspace_mib: int | None

    def profile(self) -> BatchProfile:
        """The batch sizes min, opt, max; raises PivlError if `batch` is malformed."""
        from export.engines.engine_info import BatchProfile

        return BatchProfile.parse(self.batch)

    def build(self, report: ExportReport) -> Iterator[EngineReport]:
        """Build one engine per library and exported precision; yield each when it is built."""
        from export.engine_exporter import add_engine

        workspace_bytes = None if self.workspace_mib is None else self.workspace_mib << 20
        precisions = dict.fromkeys(artifact.precision for artifact in report.manifest.artifacts)
        for library, precision in itertools.product(self.libraries, precisions):
            yield add_engine(
                report, precision, library, self.profile(), workspace_bytes=workspace_bytes
            )
