"""A re-identification dataset: crops with an identity and a camera, in three splits.

The classes contain paths and labels; `store.CropStore` reads pixels. The protocol is Market-1501's
(Zheng et al., ICCV 2015): identities of `train` never occur in `query` or `gallery`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pivl_distill.data.searched import Searched
from pivl_distill.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Record:
    """One person crop: its file, identity, camera id and part map, if it has one.

    `camid` starts at 0 and is None if the camera is unknown.
    """

    path: Path
    pid: int
    camid: int | None
    parsing: Path | None = None

    @property
    def digest(self) -> int:
        """Signed 64-bit hash of the file name, the file size and the pid."""
        text = f"{self.path.name}\t{self.path.stat().st_size}\t{self.pid}"
        return int.from_bytes(_hash(text).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class ReIDDataset:
    """The three splits under one folder, and the vocabulary of the training images' part maps.

    `people` describes each identity (attribute → value), in synthetic datasets only. `searched`
    says where the images were looked for and which of them are left out.
    """

    name: str
    root: Path
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    vocabulary: Vocabulary | None = None
    people: Mapping[int, Mapping[str, str | None]] | None = None
    searched: Searched = field(default=Searched(()), compare=False)

    @property
    def synthetic(self) -> bool:
        """Whether the people are rendered."""
        return self.people is not None

    @property
    def train_pids(self) -> tuple[int, ...]:
        """Training identities in ascending order; the index of an identity is its class label."""
        return tuple(sorted({record.pid for record in self.train}))

    @property
    def has_cameras(self) -> bool:
        """Whether the camera of every crop is known, as the same-camera rule requires."""
        return all(record.camid is not None for split in self.splits.values() for record in split)

    @property
    def cameras(self) -> int:
        """The highest camera id plus one, or 0: the rows of a table indexed by `camid`."""
        records = (record for split in self.splits.values() for record in split)
        return 1 + max((r.camid for r in records if r.camid is not None), default=-1)

    @property
    def splits(self) -> dict[str, tuple[Record, ...]]:
        """The three splits by name."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    def relative(self, path: Path) -> Path:
        """Return `path` relative to the root, or the bare name of an image outside it."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the training split: relative names, file sizes, pids and camids.

        It does not depend on the location of the dataset or on the order of its records.
        """
        return self._digest(self.train)

    @cached_property
    def test_fingerprint(self) -> str:
        """SHA-256 (hex) of query and gallery, like `fingerprint`."""
        return _sha256(
            [f"query\t{self._digest(self.query)}", f"gallery\t{self._digest(self.gallery)}"]
        )

    def _digest(self, records: Iterable[Record]) -> str:
        return _sha256(
            f"{self.relative(record.path).as_posix()}\t{record.path.stat().st_size}"
            f"\t{record.pid}\t{record.camid}\n"
            for record in records
        )

    @property
    def maps_fingerprint(self) -> str | None:
        """SHA-256 (hex) of the maps: image names, file sizes, vocabulary; None without maps."""
        if self.vocabulary is None:
            return None
        return _sha256(
            f"{self.relative(record.path).as_posix()}\t{record.parsing.stat().st_size}"
            f"\t{self.vocabulary.name}\n"
            for record in self.train
            if record.parsing is not None
        )

    @property
    def metadata(self) -> dict[str, str | None]:
        """Name and fingerprints that identify this training split, as JSON values."""
        return {"name": self.name, "images": self.fingerprint, "maps": self.maps_fingerprint}

    def summary(self) -> dict[str, tuple[int, int, int]]:
        """Return split → (images, identities, cameras)."""
        return {
            name: (
                len(split),
                len({record.pid for record in split}),
                len({record.camid for record in split} - {None}),
            )
            for name, split in self.splits.items()
        }


def _sha256(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of the lines, independent of their order."""
    return _hash("".join(sorted(lines))).hexdigest()


def _hash(text: str) -> Any:
    """Hash text with file names; names that are not UTF-8 are hashed as the bytes they are."""
    return hashlib.sha256(text.encode(errors="surrogateescape"))
