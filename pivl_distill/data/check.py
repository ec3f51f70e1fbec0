"""Checks of a dataset before training: unused files, labels, leakage, part maps.

A finding is a problem if it invalidates scores (test people or images in training, counts that
differ from the published ones), would abort training (unreadable files) or loses data unnoticed
(images that are not used). Anything else, such as an identity with one image, is a note: published
datasets have these too. Images are compared byte
by byte; near-duplicates are left out on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pivl_distill.data.findings import Finding
from pivl_distill.data.published_counts import PUBLISHED, Counts, PublishedCounts
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.scan import MAP_FAULTS, TURNED, ScannedCrop, duplicates, scan_files
from pivl_distill.data.scorable import cameras_by_pid, empty_test_splits, unmatched_queries
from pivl_distill.data.unused import check_unused


@dataclass(frozen=True)
class CheckReport:
    """Counts of a dataset, the published counts if there are any, and the results of all checks."""

    name: str
    root: Path
    counts: Counts
    published: PublishedCounts | None
    has_cameras: bool
    mapped: int
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """Number of findings that are problems; 0 if the dataset can be used."""
        return sum(finding.verdict == "PROBLEM" for finding in self.findings)


def check_dataset(dataset: ReIDDataset) -> CheckReport:
    """Check all labels and read all files of `dataset`, which takes most of the time."""
    counts = dataset.summary()
    published = None if dataset.synthetic else PUBLISHED.get(dataset.name)
    findings = [] if published is None else [compare_counts(counts, published.counts)]
    findings += check_unused(dataset)
    findings += check_labels(dataset)
    findings += check_files(scan_files(dataset))
    return CheckReport(
        name=dataset.name,
        root=dataset.root,
        counts=counts,
        published=published,
        has_cameras=dataset.has_cameras,
        mapped=sum(record.parsing is not None for record in dataset.train),
        findings=tuple(findings),
    )


def compare_counts(counts: Counts, published: Counts) -> Finding:
    """Find splits whose numbers of images, identities or cameras differ from the published ones."""
    wrong = [split for split in counts if counts[split] != published[split]]
    return Finding.of("splits with other counts than published", wrong, problem=True)


def check_labels(dataset: ReIDDataset) -> list[Finding]:
    """Check identities, cameras and names of maps, without opening a file."""
    train = cameras_by_pid(dataset.train)
    shared = train.keys() & {record.pid for record in (*dataset.query, *dataset.gallery)}
    images = Counter(record.pid for record in dataset.train)
    single = [pid for pid in train if images[pid] == 1]
    lost = unmatched_queries(dataset)
    findings = [
        Finding.of("splits without images", empty_test_splits(dataset), problem=True),
        Finding.of("identities in both training and test", sorted(shared), problem=True),
        Finding.of("training identities with one image", single),
        Finding.of(
            "queries without a match in the gallery",
            (dataset.relative(record.path) for record in lost),
            problem=len(lost) == len(dataset.query),
        ),
    ]
    if dataset.has_cameras:
        lonely = [pid for pid, camids in train.items() if len(camids) == 1]
        findings.append(Finding.of("training identities under one camera", lonely))
    if dataset.vocabulary is not None:
        bare = (dataset.relative(r.path) for r in dataset.train if r.parsing is None)
        findings.append(Finding.of("training images without a map", bare))
    return findings


def check_files(scanned: Sequence[ScannedCrop]) -> list[Finding]:
    """Check file contents: damaged images, duplicates, maps that do not match their image."""
    train = [crop for crop in scanned if crop.split == "train"]
    test = [crop for crop in scanned if crop.split != "train"]
    query, gallery = (
        [crop for crop in test if crop.split == split] for split in ("query", "gallery")
    )
    renamed = [
        *duplicates(train, train, _other_person),
        *duplicates(test, test, _other_person),
    ]
    repeated = [
        name for split in (train, query, gallery) for name in duplicates(split, split, _same_person)
    ]
    return [
        *check_readable(scanned),
        Finding.of("test images also in training", duplicates(test, train), problem=True),
        Finding.of(
            "queries that find themselves", duplicates(query, gallery, _is_hit), problem=True
        ),
        Finding.of("images under two identities", renamed, problem=True),
        Finding.of("images with a copy in their split", repeated),
    ]


def check_readable(scanned: Sequence[ScannedCrop]) -> list[Finding]:
    """Check that images are readable and that maps fit them, as far as the files were read."""
    unreadable = [crop.name for crop in scanned if crop.digest is None]
    findings = [Finding.of("images that cannot be read", unreadable, problem=True)]
    if any(crop.record.parsing for crop in scanned):
        for fault in MAP_FAULTS:
            names = [crop.name for crop in scanned if crop.map_fault == fault]
            findings.append(Finding.of(fault, names, problem=True))
        findings.append(Finding.of(TURNED, (crop.name for crop in scanned if crop.turned)))
    return findings


def _same_person(crop: ScannedCrop, other: ScannedCrop) -> bool:
    return crop.record.pid == other.record.pid


def _other_person(crop: ScannedCrop, other: ScannedCrop) -> bool:
    return crop.record.pid != other.record.pid


def _is_hit(query: ScannedCrop, found: ScannedCrop) -> bool:
    """Whether evaluation counts the copy as a hit: same identity, other camera."""
    camid = query.record.camid
    return _same_person(query, found) and (camid is None or camid != found.record.camid)
