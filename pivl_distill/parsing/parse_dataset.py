"""Parse a data set (`pivl-distill parse`): a map for every image, statistics and a QA sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivl_distill.console import track
from pivl_distill.data.images import read_pixels, read_size_hw
from pivl_distill.data.part_maps import read_map
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import Parser, ParserInput
from pivl_distill.parsing.build import build_parser
from pivl_distill.parsing.existing_maps import ExistingMapsParser
from pivl_distill.parsing.map_folder import MapFolder, lock_folder
from pivl_distill.parsing.map_statistics import ConfusionMatrix, MapStatistics
from pivl_distill.parsing.postprocessing import MapPostprocessor
from pivl_distill.parsing.qa_sheet import write_qa_sheet
from pivl_distill.parsing.settings import EMBEDDED_PARSER, load_parser_settings, parser_presets
from pivl_distill.storage.filenames import QA_SHEET_FILE
from pivl_distill.storage.files import check_writable


@dataclass(frozen=True)
class ParseReport:
    """Result of `write_maps`."""

    folder: Path
    written: int
    """Maps written by this run."""
    kept: int
    """Maps of an earlier run."""
    missing: tuple[Path, ...]
    """Images without a map, which only the parser of existing maps leaves out."""
    statistics: MapStatistics
    agreement: ConfusionMatrix | None
    """Comparison with the maps that the data set has, if they are in the same vocabulary."""
    sheet: Path | None
    """QA sheet; None without maps, and on all processes but 0."""


@dataclass(frozen=True)
class _Job:
    """One image to parse; fields as in `ParserInput`."""

    record: Record
    name: Path
    has_unique_stem: bool


def write_maps(
    dataset: ReIDDataset,
    parser: Parser,
    postprocessor: MapPostprocessor,
    out: Path,
    splits: Sequence[str] = ("train",),
) -> ParseReport:
    """Write a map of every image; complete maps of an earlier run are kept.

    Processes of a group share the images; every process reads all maps for the statistics.

    Args:
        dataset: the images.
        parser: computes or reads the maps.
        postprocessor: applied to each map before it is written.
        out: folder of the maps; may contain maps of an interrupted run.
        splits: names of the splits to parse.

    Raises:
        PivlError: `out` contains other maps or is in use by another command; two images would share
            a map; an image cannot be read. Maps written before the error are kept.
    """
    jobs = plan_jobs(dataset, splits)
    with lock_folder(out):
        with process_group.main_process_first():
            folder = MapFolder(out, postprocessor.vocabulary, parser.metadata)
        tried, unmapped = _write_missing(jobs, parser, postprocessor, folder)
        missing = tuple(job.name for job in jobs if job.name in unmapped)
        mapped = [job for job in jobs if job.name not in unmapped]
        if not process_group.rank():
            folder.finish(len(mapped))
        statistics, agreement = collect_statistics(mapped, folder, dataset)
        return ParseReport(
            folder=out,
            written=tried - len(missing),
            kept=len(jobs) - tried,
            missing=missing,
            statistics=statistics,
            agreement=agreement,
            sheet=_draw(mapped, folder, statistics),
        )


def parse_dataset(
    dataset: ReIDDataset,
    parser: str | None,
    source: str | None = None,
    overrides: dict[str, Any] | None = None,
    out: Path | None = None,
    all_splits: bool = False,
) -> ParseReport:
    """Write maps with the parser of a preset or a YAML file.

    Args:
        dataset: the images.
        parser: name of a preset or path of a YAML file; None uses the embedded parser, which is
            for synthetic data only.
        source: file, folder or hub id of the parser's weights or maps.
        overrides: settings that override the preset's or file's.
        out: folder of the maps; None uses `parsing-<parser>` in the data set.
        all_splits: parse query and gallery too.

    Raises:
        PivlError: no parser is named for a data set of photographs, `out` cannot be written, a
            folder of existing maps has none of an image, or as in `write_maps`.
    """
    if parser is None and not dataset.synthetic:
        raise PivlError(
            "The embedded parser is for rendered people only; choose one for photographs with"
            f" --parser: {', '.join(parser_presets())}, or a YAML file."
        )
    settings = load_parser_settings(parser or EMBEDDED_PARSER, source, overrides)
    name = Path(parser or EMBEDDED_PARSER).stem
    splits = tuple(dataset.splits) if all_splits else ("train",)
    out = dataset.root / f"parsing-{name}" if out is None else out
    check_writable(out, folder=True)
    built = build_parser(name, settings)
    if isinstance(built, ExistingMapsParser):
        jobs = plan_jobs(dataset, splits)
        built.require_maps({job.name: job.has_unique_stem for job in jobs})
    return write_maps(dataset, built, MapPostprocessor(settings), out, splits)


def plan_jobs(dataset: ReIDDataset, splits: Sequence[str]) -> list[_Job]:
    """Return a job for every image of `splits`; raise PivlError if two would share a map."""
    by_map: dict[Path, Record] = {}
    for record in (record for split in splits for record in dataset.splits[split]):
        map_name = dataset.relative(record.path).with_suffix(".png")
        other = by_map.setdefault(map_name, record)
        if other.path != record.path:
            raise PivlError(
                f"{record.path} and {other.path} would share one map, {map_name}: rename one of"
                " them, or move it to another folder of the data set."
            )
    names = {dataset.relative(record.path): record for record in by_map.values()}
    stems = Counter(name.stem for name in names)
    return [_Job(record, name, stems[name.stem] == 1) for name, record in names.items()]


def _write_missing(
    jobs: Sequence[_Job], parser: Parser, postprocessor: MapPostprocessor, folder: MapFolder
) -> tuple[int, set[Path]]:
    """Write the maps that do not exist yet, this process its share.

    Returns over all processes how many images were parsed, and the names of those without a map.
    """
    share = jobs[process_group.rank() :: process_group.world_size()]
    todo = [
        job
        for job in track(share, "Looking for earlier maps", unit="images")
        if not folder.has_map(job.name, read_size_hw(job.record.path))
    ]
    steps = _write(todo, parser, postprocessor, folder)
    written = list(track(steps, "Parsing", total=len(todo), unit="images"))
    unmapped = [job.name for job, has_map in zip(todo, written, strict=True) if not has_map]
    gathered = process_group.all_gather_object((len(todo), unmapped))
    return sum(tried for tried, _ in gathered), {name for _, names in gathered for name in names}


def _write(
    jobs: Sequence[_Job], parser: Parser, postprocessor: MapPostprocessor, folder: MapFolder
) -> Iterator[bool]:
    """Parse in batches; yield for each job whether a map was written."""
    for start in range(0, len(jobs), parser.batch_size):
        batch = jobs[start : start + parser.batch_size]
        crops = [
            ParserInput(job.name, read_pixels(job.record.path), job.has_unique_stem)
            for job in batch
        ]
        for job, part_map in zip(batch, parser.parse(crops), strict=True):
            if part_map is not None:
                folder.write(job.name, postprocessor.apply(part_map))
            yield part_map is not None


def collect_statistics(
    jobs: Sequence[_Job], folder: MapFolder, dataset: ReIDDataset
) -> tuple[MapStatistics, ConfusionMatrix | None]:
    """Read all maps back; compare them with the data set's own maps in other folders."""
    vocabulary = folder.vocabulary
    statistics, agreement, compared = (
        MapStatistics(vocabulary),
        ConfusionMatrix(len(vocabulary)),
        False,
    )
    for job in track(jobs, "Reading the maps", unit="maps"):
        labels = folder.read(job.name)
        statistics.add(job.name, labels)
        reference = job.record.parsing if dataset.vocabulary == vocabulary else None
        if reference is not None and reference != folder.map_path(job.name):
            agreement.add(read_map(reference, labels.shape, vocabulary), labels)
            compared = True
    return statistics, agreement if compared else None


def _draw(jobs: Sequence[_Job], folder: MapFolder, statistics: MapStatistics) -> Path | None:
    """Write the QA sheet of up to 32 evenly spaced images, on process 0."""
    if not jobs or process_group.rank():
        return None
    chosen = np.linspace(0, len(jobs) - 1, min(len(jobs), 32)).round().astype(int)
    pairs = [
        (read_pixels(jobs[i].record.path), folder.read(jobs[i].name)) for i in dict.fromkeys(chosen)
    ]
    write_qa_sheet(pairs, statistics, folder.path / QA_SHEET_FILE)
    return folder.path / QA_SHEET_FILE
