"""The prompt bank: CLIP's text features of every identity and body part, all a student needs.

It is one safetensors file of a few megabytes. Rows are looked up by pid, never by position, so a
student can train on a subset of the identities; an identity without a row is an error.
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
from pivl_distill.storage.tensors import (
    Form,
    check_tensors,
    damage_named,
    load_tensors,
    save_tensors,
)

KIND = "prompt bank"
_TEXT_FEATURES = ("identity", "part", "label")
_TENSORS = (*_TEXT_FEATURES, "present")
_FORMS = {
    "identity": Form(2, torch.float32, torch.float16),
    "part": Form(3, torch.float32, torch.float16),
    "label": Form(2, torch.float32, torch.float16),
    "present": Form(2, torch.bool),
    "pids": Form(1, torch.long),
    "image_digests": Form(1, torch.long),
}


@dataclass(frozen=True)
class PromptBank:
    """Text features of C identities and P parts in CLIP's joint space of D dimensions."""

    identity: Tensor
    """[C, D], features of the identity prompt "a photo of a X X X X person" (Eq. 1)."""
    part: Tensor
    """[C, P, D], features of the part prompt "a photo of a X X X X person <part>" (Eq. 6)."""
    label: Tensor
    """[P, D], features of "a photo of a person <part>", no learned tokens (row H of Table 3)."""
    present: Tensor
    """bool [C, P], whether the part is visible in any training crop of the identity."""
    pids: tuple[int, ...]
    """The identity of each row."""
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    """CLIP and weight hash, templates, data set and fingerprint, version, date, read-out."""

    image_digests: frozenset[int] = frozenset()
    """`Record.digest` of the training images that the prompts were tuned on."""

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
        """Return the bank with one row per pid, in the order of `pids`.

        Raises PivlError, which names them, if there are pids without a row.
        """
        pids = tuple(pids)
        row = {pid: number for number, pid in enumerate(self.pids)}
        if missing := [pid for pid in pids if pid not in row]:
            raise PivlError(
                f"The prompt bank has no text features for {len(missing)} of {len(pids)} identities"
                f" ({_format_pids(missing)}). It was made from {self._dataset};"
                " teach on this data set, or pass the data set that the bank was made from."
            )
        return self._take_rows(torch.tensor([row[pid] for pid in pids], dtype=torch.long), pids)

    def check_images(self, train: Sequence[Record]) -> None:
        """Check that each identity in `train` has an image that the bank was made from.

        Otherwise the same pid may mean another person. Additional or missing images of an identity
        are accepted. Raises PivlError, which names the identities that share no image.
        """
        shares_image = {record.pid: False for record in train}
        for record in train:
            shares_image[record.pid] |= record.digest in self.image_digests
        if unmatched := sorted(pid for pid, shares in shares_image.items() if not shares):
            raise PivlError(
                f"The prompt bank was made from {self._dataset} and shares no training image with"
                f" {len(unmatched)} of {len(shares_image)} identities ({_format_pids(unmatched)}),"
                " so the same pids may mean other people. Teach on this data set; if the pids do"
                " mean the same people, set --set trust_pids=true."
            )

    def label_only(self) -> PromptBank:
        """Return a control: the label features replace all part features (row B+H of Table 3)."""
        return dataclasses.replace(self, part=self.label.expand_as(self.part).contiguous())

    def permuted(self, seed: int) -> PromptBank:
        """Return a control: each identity has the rows of another one, by a random cycle."""
        order = torch.randperm(len(self.pids), generator=torch.Generator().manual_seed(seed))
        source_rows = torch.empty_like(order)
        source_rows[order] = order.roll(1)
        return self._take_rows(source_rows, self.pids)

    @property
    def _dataset(self) -> str:
        return str(self.provenance.get("dataset", "other data"))

    def _take_rows(self, rows: Tensor, pids: tuple[int, ...]) -> PromptBank:
        return dataclasses.replace(
            self,
            identity=self.identity[rows],
            part=self.part[rows],
            present=self.present[rows],
            pids=pids,
        )

    def save(self, path: Path, precision: Literal["float32", "float16"] = "float32") -> None:
        """Write the file atomically, text features in `precision`; `load` returns float32."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        if precision == "float16":
            tensors |= {name: tensors[name].half() for name in _TEXT_FEATURES}
        tensors["pids"] = torch.tensor(self.pids, dtype=torch.long)
        tensors["image_digests"] = torch.tensor(sorted(self.image_digests), dtype=torch.long)
        metadata = {"vocabulary": self.vocabulary.name, "provenance": self.provenance}
        save_tensors(path, KIND, tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> PromptBank:
        """Read a bank. Raises PivlError if the file is missing, damaged or of another kind."""
        path = Path(path)
        _, tensors, metadata = load_tensors(path, KIND)
        provenance = metadata["provenance"]
        vocabulary = get_vocabulary(str(metadata["vocabulary"]), path)
        with damage_named(path, KIND):
            if not isinstance(provenance, dict):
                raise ValueError("its provenance is no JSON object")
            check_tensors(tensors, _FORMS)
            return cls(
                **{name: tensors[name].float() for name in _TEXT_FEATURES},
                present=tensors["present"],
                pids=tuple(tensors["pids"].tolist()),
                vocabulary=vocabulary,
                provenance=provenance,
                image_digests=frozenset(tensors["image_digests"].tolist()),
            )


def _format_pids(pids: Sequence[int]) -> str:
    return f"pid {', '.join(map(str, pids[:10]))}" + (", …" if len(pids) > 10 else "")
