"""Write, measure and record the folder of each consumer in an export."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from export.consumer_schema import ConsumerFolder, ConsumerRun, Status
from export.consumers.base import (
    Consumer,
    ExportFolder,
    NetworkFile,
    NotRunnableError,
    RunOptions,
)
from export.consumers.measure import Trial
from export.manifest_schema import Manifest, read_manifest, write_manifest
from pivl_distill.errors import PivlError, UnverifiedError, VerificationError
from pivl_distill.storage.files import atomic_folder, sha256


def check_consumers(folder: Path, manifest: Manifest, consumers: Sequence[Consumer]) -> None:
    """Raise PivlError if a consumer cannot use the export, or its folder would replace others."""
    recorded = {entry.folder for entry in manifest.consumers}
    for consumer in consumers:
        consumer.check(manifest)
        if (folder / consumer.name).exists() and consumer.name not in recorded:
            raise PivlError(
                f"{folder / consumer.name} is in the way: the folder for {consumer.title} is"
                " written there. Move it away."
            )


def add_consumers(
    folder: Path, consumers: Sequence[Consumer], trial: Trial, options: RunOptions
) -> Iterator[ConsumerFolder]:
    """Write the folder of each consumer into the export `folder`, measure it, and yield its entry.

    The manifest is written after each one, so that an error in the next does not lose it. A folder
    of the same consumer is replaced, once the new one is complete.
    """
    check_consumers(folder, read_manifest(folder), consumers)
    for consumer in consumers:
        entry = _add(ExportFolder(folder, read_manifest(folder)), consumer, trial, options)
        manifest = read_manifest(folder)
        write_manifest(folder, manifest.with_consumer(entry))
        yield entry


def check_folders(entries: Sequence[ConsumerFolder]) -> None:
    """Raise VerificationError if a folder failed, else UnverifiedError if one is unverified."""
    reasons: dict[Status, list[str]] = {"failed": [], "unverified": []}
    for entry in entries:
        if entry.status != "verified":
            reasons[entry.status].append(f"{entry.name}: {entry.reason}")
    if failed := reasons["failed"]:
        raise VerificationError(
            f"Verification for consumers failed. {' '.join(failed)} The folders are kept for"
            " inspection; do not deploy the failed ones."
        )
    if unverified := reasons["unverified"]:
        raise UnverifiedError(f"Written, but unverified. {' '.join(unverified)}")


def _add(
    export: ExportFolder, consumer: Consumer, trial: Trial, options: RunOptions
) -> ConsumerFolder:
    target = export.path / consumer.name
    with atomic_folder(target) as folder:
        networks = consumer.networks(consumer.write(export, folder), options)
        runs = [_measure(export, consumer, folder, file, trial, options) for file in networks]
        consumer.configure(export, folder, runs)
        hashes = {
            path.relative_to(folder).as_posix(): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        shutil.rmtree(target, ignore_errors=True)
    return ConsumerFolder(name=consumer.name, folder=consumer.name, files=hashes, runs=tuple(runs))


def _measure(
    export: ExportFolder,
    consumer: Consumer,
    folder: Path,
    file: NetworkFile,
    trial: Trial,
    options: RunOptions,
) -> ConsumerRun:
    fields = {"file": file.path, "precision": file.precision}
    try:
        with consumer.open(export, folder, file, options) as runner:
            return trial.run(file, runner)
    except NotRunnableError as error:
        return ConsumerRun(**fields, status="unverified", reason=str(error))
    except PivlError as error:
        return ConsumerRun(**fields, status="failed", reason=str(error))
