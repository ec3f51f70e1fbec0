"""`pivl-distill parse`: a map for every image of a data set, and a look at what the maps hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivl_distill.console import track
from pivl_distill.data.images import read_pixels
from pivl_distill.data.part_maps import read_map
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import Parser, ParserInput
from pivl_distill.parsing.build import build_parser
from pivl_distill.parsing.map_folder import MapFolder, lock_folder
from pivl_distill.parsing.map_statistics import ConfusionMatrix, MapStatistics
from pivl_distill.parsing.postprocessing import MapPostprocessor
from pivl_distill.parsing.qa_sheet import write_qa_sheet
from pivl_distill.parsing.settings import EMBEDDED_PARSER, load_parser_settings, parser_presets

QA_SHEET = "parsing.png"


@dataclass(frozen=True)
class ParseReport:
    """What `write_maps` did and what the maps hold."""

    folder: Path
    written: int
    kept: int
    """Maps of an earlier run."""
    missing: tuple[Path, ...]
    """Images without a map; only imported maps can be missing."""
    statistics: MapStatistics
    agreement: ConfusionMatrix | None
    """With the maps that the data set had before, where they are in the same vocabulary."""
    sheet: Path | None


@dataclass(frozen=True)
class _Job:
    """One image, its name below the root, and whether no other has its file name."""

    record: Record
    name: Path
    has_unique_stem: bool


def write_maps(
    dataset: ReIDDataset,
    parser: Parser,
    cleaning: MapPostprocessor,
    out: Path,
    splits: Sequence[str] = ("train",),
) -> ParseReport:
    """Write a map of each image of `splits` into the folder `out`, which may hold some already.

    Raises PivlError if `out` holds other maps or another command writes there, two images would
    share a map, or an image cannot be read; maps that were written until then stay. Several
    processes take turns with the images, and all look at all maps.
    """
    jobs = plan_jobs(dataset, splits)
    with lock_folder(out):
        with process_group.main_process_first():
            folder = MapFolder(out, cleaning.vocabulary, parser.metadata)
        own = jobs[process_group.rank() :: process_group.world_size()]
        todo = [
            job
            for job in track(own, "Looking for earlier maps", unit="images")
            if not folder.has_map(job.name, _size_hw(job.record.path))
        ]
        steps = _write(todo, parser, cleaning, folder)
        made = list(track(steps, "Parsing", total=len(todo), unit="images"))
        unmapped = [str(job.name) for job, written in zip(todo, made, strict=True) if not written]
        gathered = process_group.all_gather_object((len(todo), unmapped))
        tried = sum(number for number, _ in gathered)
        without = {name for _, names in gathered for name in names}
        missing = tuple(job.name for job in jobs if str(job.name) in without)
        mapped = [job for job in jobs if str(job.name) not in without]
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
    """`write_maps` with the parser of a preset or a YAML file, by default the embedded one.

    The default folder is `parsing-<parser>` in the data set. Raises PivlError where photographs
    would get the embedded parser without anybody having asked for it.
    """
    if parser is None and not dataset.synthetic:
        raise PivlError(
            "The embedded parser knows rendered people only; name one for photographs with"
            f" --parser: {', '.join(parser_presets())}, or a YAML file."
        )
    settings = load_parser_settings(parser or EMBEDDED_PARSER, source, overrides)
    name = Path(parser or EMBEDDED_PARSER).stem
    splits = tuple(dataset.splits) if all_splits else ("train",)
    out = dataset.root / f"parsing-{name}" if out is None else out
    return write_maps(
        dataset, build_parser(name, settings), MapPostprocessor(settings), out, splits
    )


def plan_jobs(dataset: ReIDDataset, splits: Sequence[str]) -> list[_Job]:
    """Every image of `splits`; PivlError where two would share a map."""
    by_map: dict[Path, Record] = {}
    for record in (record for split in splits for record in dataset.splits[split]):
        place = dataset.relative(record.path).with_suffix(".png")
        other = by_map.setdefault(place, record)
        if other.path != record.path:
            raise PivlError(
                f"{record.path} and {other.path} would share one map, {place}: give them names of"
                " their own, or folders below the data set."
            )
    names = {dataset.relative(record.path): record for record in by_map.values()}
    named = Counter(name.stem for name in names)
    return [_Job(record, name, named[name.stem] == 1) for name, record in names.items()]


def _write(
    jobs: Sequence[_Job], parser: Parser, cleaning: MapPostprocessor, folder: MapFolder
) -> Iterator[bool]:
    """For each job in turn, whether a map was written."""
    for start in range(0, len(jobs), parser.batch_size):
        batch = jobs[start : start + parser.batch_size]
        crops = [
            ParserInput(job.name, read_pixels(job.record.path), job.has_unique_stem)
            for job in batch
        ]
        for job, part_map in zip(batch, parser.parse(crops), strict=True):
            if part_map is not None:
                folder.write(job.name, cleaning.apply(part_map))
            yield part_map is not None


def collect_statistics(
    jobs: Sequence[_Job], folder: MapFolder, dataset: ReIDDataset
) -> tuple[MapStatistics, ConfusionMatrix | None]:
    """Read all maps back; compare those of images that had a map elsewhere."""
    vocabulary = folder.vocabulary
    statistics, agreement, compared = (
        MapStatistics(vocabulary),
        ConfusionMatrix(len(vocabulary)),
        False,
    )
    for job in track(jobs, "Looking at the maps", unit="maps"):
        labels = folder.read(job.name)
        statistics.add(job.name, labels)
        before = job.record.parsing if dataset.vocabulary == vocabulary else None
        if before is not None and before != folder.map_path(job.name):
            agreement.add(read_map(before, labels.shape, vocabulary), labels)
            compared = True
    return statistics, agreement if compared else None


def _draw(jobs: Sequence[_Job], folder: MapFolder, statistics: MapStatistics) -> Path | None:
    """The QA sheet, of evenly spaced images."""
    if not jobs or process_group.rank():
        return None
    chosen = np.linspace(0, len(jobs) - 1, min(len(jobs), 32)).round().astype(int)
    pairs = [
        (read_pixels(jobs[i].record.path), folder.read(jobs[i].name)) for i in dict.fromkeys(chosen)
    ]
    write_qa_sheet(pairs, statistics, folder.path / QA_SHEET)
    return folder.path / QA_SHEET


def _size_hw(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size[1], image.size[0]
    except (OSError, Image.DecompressionBombError) as error:
        raise PivlError(f"Cannot read the image {path}: {error}.") from error
