"""`pivl-distill export --for`: folders for the programs that run an export, measured in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.app.export_run import load_test_crops, unscored_records
from pivl_distill.app.targets import data_settings
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import MANIFEST_FILE

if TYPE_CHECKING:
    from export.consumer_schema import ConsumerFolder
    from export.consumers.base import Consumer
    from export.manifest_schema import Manifest
    from pivl_distill.config import DataSettings


def is_export(source: Path) -> bool:
    """Whether `source` is the folder of an export, which needs no new one."""
    return (source / MANIFEST_FILE).is_file()


@dataclass(frozen=True)
class ConsumerTargets:
    """What was asked for: names of consumers, and "NAME=PATH" of the Python of a consumer."""

    names: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()

    def consumers(self) -> list[Consumer]:
        """The consumers; raises PivlError for an unknown name, or a Python without its consumer."""
        from export.consumers.registry import check_pythons, parse_consumers

        consumers = parse_consumers(self.names)
        check_pythons(self._pythons(), consumers)
        return consumers

    def check_options(self, *, normalize: bool, bake_preprocessing: bool) -> None:
        """Raise PivlError if they are wrong, or do not fit the options of a new export.

        `normalize` is accepted by all consumers.
        """
        if self.consumers() and bake_preprocessing:
            raise PivlError(
                "--for makes graphs with the preprocessing of each program; remove"
                " --bake-preprocessing."
            )

    def add(
        self, folder: Path, spec: str | None = None, *, cached: bool = True
    ) -> Iterator[ConsumerFolder]:
        """Write a folder for each consumer into the export `folder`; yield its entry.

        `spec` names the data set of the export, if it was moved; `cached` as in
        `export_checkpoint`. Raises PivlError if the data set is another one, or for what
        `add_consumers` refuses.
        """
        from export.consumers.base import RunOptions
        from export.consumers.folders import add_consumers, check_consumers
        from export.consumers.measure import prepare_trial
        from export.manifest_schema import read_manifest

        consumers, manifest = self.consumers(), read_manifest(folder)
        check_consumers(folder, manifest, consumers)
        data = _data_of(folder, manifest, spec)
        dataset = load_dataset(data.spec)
        _check_same_data(manifest, dataset, data)
        test = load_test_crops(dataset, manifest.input.size_hw, data, cached=cached)
        trial = prepare_trial(folder, test, *_images(dataset, data))
        yield from add_consumers(folder, consumers, trial, RunOptions(self._pythons()))

    def _pythons(self) -> dict[str, Path]:
        pythons = {}
        for text in self.pythons:
            name, separator, path = text.partition("=")
            if not (name and separator and path):
                raise PivlError(f"--consumer-python takes NAME=PATH, not '{text}'.")
            pythons[name] = Path(path)
        return pythons


def _data_of(folder: Path, manifest: Manifest, spec: str | None) -> DataSettings:
    """Settings of the data set that the export was verified on, at `spec` if that is given."""
    own = data_settings(folder, None)
    recorded = own.spec if manifest.data is None else manifest.data.spec
    unscored = manifest.not_measured is not None
    return own.model_copy(update={"spec": spec or recorded, "evaluation": not unscored})


def _check_same_data(manifest: Manifest, dataset: ReIDDataset, data: DataSettings) -> None:
    """Raise PivlError unless it is the data set whose results are in the manifest."""
    fingerprint = dataset.test_fingerprint if data.evaluation else dataset.fingerprint
    if manifest.data is not None and manifest.data.fingerprint != fingerprint:
        raise PivlError(
            f"{data.spec} is not the data set that this export was verified on"
            f" ({manifest.data.spec}), or its files changed. If it was moved, name it with --data;"
            " to verify on other data, export the checkpoint again with --data."
        )


def _images(dataset: ReIDDataset, data: DataSettings) -> tuple[Sequence[Record], Sequence[Record]]:
    """The images of `load_test_crops`: query and gallery."""
    if data.evaluation:
        return dataset.query, dataset.gallery
    return unscored_records(dataset)
