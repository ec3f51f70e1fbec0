"""A small export whose query and gallery are image files, and what consumers are measured on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.accuracy import AccuracyBudget
from export.consumers.base import ExportFolder, Frame, Runner
from export.consumers.graphs import InputForm
from export.consumers.measure import Trial, prepare_trial
from export.exporter import export_model
from export.manifest_schema import read_manifest
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.retrieval.evaluation import QueryGalleryCrops
from pivl_distill.runtime.onnx_session import open_session

NATIVE_HW = (96, 40)
"""Size of the images; the network takes 64×32."""
LENIENT = {"int8": AccuracyBudget(0.9, 10.0, 20.0), "fp16": AccuracyBudget(0.999, 5.0, 10.0)}
"""Budgets that the small network meets in every precision."""


def write_images(store: CropStore, folder: Path) -> list[Record]:
    """Write the crops of a store as PNG files of another size."""
    records = []
    for number, (crop, pid) in enumerate(zip(store.crops, store.pids, strict=True)):
        path = folder / f"{number}.png"
        Image.fromarray(crop).resize(NATIVE_HW[::-1], Image.Resampling.BICUBIC).save(path)
        records.append(Record(path, int(pid), int(store.camids[number])))
    return records


@pytest.fixture(scope="session")
def images(query, gallery, tmp_path_factory) -> tuple[list[Record], list[Record]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("query", "gallery")]
    return write_images(query, folders[0]), write_images(gallery, folders[1])


@pytest.fixture(scope="session")
def image_test(images) -> QueryGalleryCrops:
    return QueryGalleryCrops(*(CropStore.load(records, (64, 32)) for records in images))


@pytest.fixture(scope="session")
def exported_once(small, image_test, training, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "export.exporter._measure_latency", lambda _folder, artifacts, _threads: artifacts
        )
        export_model(
            small, folder, test=image_test, calibration=training, precisions=("fp16", "int8"),
            budgets=LENIENT,
        )  # fmt: skip
    return folder


@pytest.fixture
def exported_folder(exported_once, tmp_path) -> ExportFolder:
    """A copy of an export in fp32, fp16 and int8, with its manifest."""
    folder = Path(shutil.copytree(exported_once, tmp_path / "export"))
    return ExportFolder(folder, read_manifest(folder))


@pytest.fixture(scope="session")
def trial(exported_once, image_test, images) -> Trial:
    return prepare_trial(exported_once, image_test, *images)


@pytest.fixture
def onnx_runner() -> Callable[..., Runner]:
    """`onnx_runner(path, form)` cuts and resizes with Pillow, feeds `form`, runs ONNX Runtime."""

    def make(path: Path, form: InputForm, size_hw: tuple[int, int] = (64, 32)) -> Runner:
        session = open_session(path)

        def embed(frames: Sequence[Frame]) -> np.ndarray:
            crops = []
            for frame in frames:
                crop = Image.fromarray(frame.pixels).crop(frame.box)
                crops.append(crop.resize(size_hw[::-1], Image.Resampling.BILINEAR))
            feed = {session.get_inputs()[0].name: form.feed(np.stack(crops))}
            (vectors,) = session.run(None, feed)
            return vectors

        return Runner(embed, "Pillow 1")

    return make
