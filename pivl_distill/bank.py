"""The prompt bank: CLIP's texts of every identity and body part, the only thing a student needs.

One safetensors file of a few megabytes. Rows are found by pid, never by position, so a student may
train on a subset of the identities; an identity without a row is an error that names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import Vocabulary, get_vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import load_tensors, save_tensors

KIND = "prompt bank"
_TEXTS = ("identity", "part", "label")
_TENSORS = (*_TEXTS, "present")


@dataclass(frozen=True)
class PromptBank:
    """Text features of C identities and P parts in CLIP's joint space of dimension D."""

    identity: Tensor
    """[C, D] the identity prompt, "a photo of a X X X X person" (Eq. 1)."""
    part: Tensor
    """[C, P, D] the part prompt, "a photo of a X X X X person <part>" (Eq. 6)."""
    label: Tensor
    """[P, D] the part's word alone, "a photo of a person <part>" (row H of Table 3)."""
    present: Tensor
    """bool [C, P] whether the part was seen on any training crop of the identity."""
    pids: tuple[int, ...]
    """The identity of each row."""
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    """CLIP and weight hash, templates, data set and fingerprint, version, date, read-out."""

    images: frozenset[int] = frozenset()
    """`Record.digest` of the training images that the texts were learned from."""

    def __post_init__(self) -> None:
        identities, parts, dim = self.part.shape
        expected = {
            "identity": (identities, dim),
            "label": (parts, dim),
            "present": (identities, parts),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} is {tuple(getattr(self, name).shape)}, not {shape}")
        if len(self.pids) != identities or len(set(self.pids)) != identities:
            raise ValueError(f"{len(set(self.pids))} distinct pids for {identities} rows")
        if parts != len(self.vocabulary):
            raise ValueError(f"{parts} parts for the {len(self.vocabulary)} of the vocabulary")

    @property
    def dim(self) -> int:
        """D, the joint dimension."""
        return self.identity.shape[1]

    def select(self, pids: Iterable[int]) -> PromptBank:
        """The bank with one row per pid, in that order; PivlError names pids without a row."""
        pids = tuple(pids)
        row = {pid: number for number, pid in enumerate(self.pids)}
        if unknown := [pid for pid in pids if pid not in row]:
            raise PivlError(
                f"The prompt bank has no text for {len(unknown)} of {len(pids)} identities"
                f" ({_named(unknown)}). It was made from {self._dataset};"
                " teach on this data set, or pass the data set it belongs to."
            )
        return self._reordered(torch.tensor([row[pid] for pid in pids], dtype=torch.long), pids)

    def check_images(self, train: Sequence[Record]) -> None:
        """PivlError naming identities of which no image is among those the texts are about.

        Their pids say as much about other people as about these. Further images of an identity
        make no difference, nor do fewer.
        """
        same_person = {record.pid: False for record in train}
        for record in train:
            same_person[record.pid] |= record.digest in self.images
        if strangers := sorted(pid for pid, same in same_person.items() if not same):
            raise PivlError(
                f"The prompt bank was made from {self._dataset} and has seen no training image of"
                f" {len(strangers)} of {len(same_person)} identities ({_named(strangers)}), so that"
                " its texts may be about other people of the same numbers. Teach on this data set;"
                " if the numbers do mean the same people, say so with --set trust_pids=true."
            )

    def label_only(self) -> PromptBank:
        """A control: every identity's part text is the bare label text (row B+H of Table 3)."""
        return dataclasses.replace(self, part=self.label.expand_as(self.part).contiguous())

    def permuted(self, seed: int) -> PromptBank:
        """A control: each identity gets the texts of another one, as one shuffled cycle."""
        order = torch.randperm(len(self.pids), generator=torch.Generator().manual_seed(seed))
        other = torch.empty_like(order)
        other[order] = order.roll(1)
        return self._reordered(other, self.pids)

    @property
    def _dataset(self) -> str:
        return str(self.provenance.get("dataset", "other data"))

    def _reordered(self, rows: Tensor, pids: tuple[int, ...]) -> PromptBank:
        return dataclasses.replace(
            self,
            identity=self.identity[rows],
            part=self.part[rows],
            present=self.present[rows],
            pids=pids,
        )

    def save(self, path: Path, precision: Literal["float32", "float16"] = "float32") -> None:
        """Write atomically, texts in the asked precision; they are read back as float32."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        if precision == "float16":
            tensors |= {name: tensors[name].half() for name in _TEXTS}
        tensors["pids"] = torch.tensor(self.pids, dtype=torch.long)
        tensors["images"] = torch.tensor(sorted(self.images), dtype=torch.long)
        metadata = {"vocabulary": self.vocabulary.name, "provenance": self.provenance}
        save_tensors(path, KIND, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> PromptBank:
        """Read a bank; PivlError when the file is missing, damaged or something else."""
        _, tensors, metadata = load_tensors(path, KIND)
        if missing := {*_TENSORS, "pids", "images"} - tensors.keys():
            raise PivlError(f"{path} is a damaged prompt bank: it lacks {sorted(missing)}.")
        return cls(
            **{name: tensors[name].float() for name in _TEXTS},
            present=tensors["present"],
            pids=tuple(tensors["pids"].tolist()),
            vocabulary=get_vocabulary(metadata["vocabulary"]),
            provenance=metadata["provenance"],
            images=frozenset(tensors["images"].tolist()),
        )


def _named(pids: Sequence[int]) -> str:
    return f"pid {', '.join(map(str, pids[:10]))}" + (", …" if len(pids) > 10 else "")
