"""What a re-identification dataset is: crops with an identity and a camera, in three splits.

The classes hold names and labels, never pixels; `store.CropStore` reads those. The protocol is
Market-1501's (Zheng et al., ICCV 2015): identities of `train` never occur in `query` and `gallery`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pivl_distill.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Record:
    """One person crop: its file, identity, camera and part map, if it has one.

    `camid` counts from 0 and is None where nobody knows the camera.
    """

    path: Path
    pid: int
    camid: int | None
    parsing: Path | None = None

    @property
    def digest(self) -> int:
        """64 bits, signed, that tell this image of this person: file name, file size and pid."""
        text = f"{self.path.name}\t{self.path.stat().st_size}\t{self.pid}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class ReIDDataset:
    """The three splits under one folder, and what the part maps of the training images mean.

    `people` describes each identity (attribute → value); only rendered datasets know it.
    """

    name: str
    root: Path
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    vocabulary: Vocabulary | None = None
    people: Mapping[int, Mapping[str, str | None]] | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the people are rendered rather than photographed."""
        return self.people is not None

    @property
    def train_pids(self) -> tuple[int, ...]:
        """The training identities in ascending order; a position in it is a class label."""
        return tuple(sorted({record.pid for record in self.train}))

    @property
    def has_cameras(self) -> bool:
        """Whether the camera of every crop is known, so that the same-camera rule can be kept."""
        return all(record.camid is not None for split in self.splits.values() for record in split)

    @property
    def cameras(self) -> int:
        """Rows that a table indexed by `camid` needs: the highest camera id plus one, or 0."""
        records = (record for split in self.splits.values() for record in split)
        return 1 + max((r.camid for r in records if r.camid is not None), default=-1)

    @property
    def splits(self) -> dict[str, tuple[Record, ...]]:
        """The three splits by name."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    def relative(self, path: Path) -> Path:
        """`path` below the root; the bare name of an image that lies elsewhere."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the training split: relative names, file sizes, pids and camids.

        It does not depend on where the dataset lies or on the order of its records.
        """
        return self._digest(self.train)

    @cached_property
    def test_fingerprint(self) -> str:
        """The same of query and gallery, on which figures are measured."""
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
        """The same of the part maps: whose they are, file sizes, vocabulary; None without any."""
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
        """What tells this training split from others, as JSON values."""
        return {"name": self.name, "images": self.fingerprint, "maps": self.maps_fingerprint}

    def summary(self) -> dict[str, tuple[int, int, int]]:
        """Split → (images, identities, cameras), as the tables of the field count them."""
        return {
            name: (
                len(split),
                len({record.pid for record in split}),
                len({record.camid for record in split} - {None}),
            )
            for name, split in self.splits.items()
        }


def _sha256(lines: Iterable[str]) -> str:
    """Of the lines in any order."""
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
