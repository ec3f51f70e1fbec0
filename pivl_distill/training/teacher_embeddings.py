"""Teacher embeddings of training crops in a file: the targets of the distillation terms.

A student process loads no CLIP, so the teacher embeds each crop before the student trains: as it
is, and in further views that are flipped and shifted. The views are stored with their embeddings,
so that the student sees what the teacher saw. The file is bounded: N crops in V views of F values,
float16, plus the teacher's classifier. Crops are looked up by image, so that the file serves any
subset of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.data.transforms import Geometry, move_crops
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, ForwardFunction, embed
from pivl_distill.storage.paths import shown
from pivl_distill.storage.tensors import (
    Form,
    check_tensors,
    damage_named,
    load_tensors,
    save_tensors,
)

KIND = "teacher embeddings"
_FORMS = {
    "embeddings": Form(3, torch.float16, torch.float32),
    "flips": Form(2, torch.bool),
    "shifts": Form(3, torch.float32),
    "images": Form(1, torch.long),
}
_CLASSIFIER_FORMS = {
    "classifier_weight": Form(2, torch.float16, torch.float32),
    "classifier_bias": Form(1, torch.float16, torch.float32),
}
_SEED = 5_701
"""Draws the views of a file."""
MOVED_CROPS = 256
"""Crops that are shifted at a time."""


@dataclass(frozen=True)
class Classifier:
    """A teacher's identity classifier as one linear map of its embeddings."""

    weight: Tensor
    """[C, F]."""
    bias: Tensor
    """[C]."""
    pids: tuple[int, ...]
    """The identity of each row."""


@dataclass(frozen=True)
class TeacherEmbeddings:
    """Embeddings of N crops in V views each; view 0 is the crop itself."""

    embeddings: Tensor
    """float16 [N, V, F]."""
    flips: np.ndarray
    """bool [N, V], whether the view is mirrored."""
    shifts: np.ndarray
    """float32 [N, V, 2], the view's offset downwards and to the right, in heights and widths."""
    projected_dim: int = 0
    """D: the last D values of an embedding are the teacher's features in CLIP's joint space."""
    classifier: Classifier | None = None

    @property
    def dim(self) -> int:
        """F."""
        return self.embeddings.shape[2]

    @property
    def views(self) -> int:
        """V."""
        return self.embeddings.shape[1]

    @property
    def projected(self) -> Tensor | None:
        """[N, V, D] in the joint space of the bank; None for a teacher without one."""
        return self.embeddings[..., -self.projected_dim :] if self.projected_dim else None

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the teacher's identity logits [B, C] of embeddings [B, F]."""
        assert self.classifier is not None
        return embeddings @ self.classifier.weight.T + self.classifier.bias

    def first_views(self, views: int) -> TeacherEmbeddings:
        """Return the first `views` views of each crop; raises PivlError if there are fewer."""
        if views > self.views:
            raise PivlError(
                f"distill.views is {views}, but the teacher's embeddings have {self.views} views;"
                f" teach with --set embedding_views={views}, or lower distill.views."
            )
        return self._take((slice(None), slice(views)))

    def rows(self, rows: Sequence[int] | slice) -> TeacherEmbeddings:
        """Return the embeddings of some crops, in the order of `rows`."""
        return self._take((rows,))

    def select_classes(self, pids: Sequence[int]) -> TeacherEmbeddings:
        """Return a copy whose classifier has one row per pid; without one, if any pid is new."""
        if self.classifier is None or not set(pids) <= set(self.classifier.pids):
            return replace(self, classifier=None)
        rows = [self.classifier.pids.index(pid) for pid in pids]
        weight, bias = self.classifier.weight[rows], self.classifier.bias[rows]
        return replace(self, classifier=Classifier(weight, bias, tuple(pids)))

    def to(self, device: torch.device) -> TeacherEmbeddings:
        """Return a copy with embeddings and classifier on another device."""
        classifier = self.classifier
        if classifier is not None:
            weight, bias = classifier.weight.to(device), classifier.bias.to(device)
            classifier = Classifier(weight, bias, classifier.pids)
        return replace(self, embeddings=self.embeddings.to(device), classifier=classifier)

    def geometry(self, batch: np.ndarray, view: np.ndarray, size_hw: tuple[int, int]) -> Geometry:
        """Return flips and pixel offsets of one view of each crop of a batch.

        `batch` int64 [B] are crops, `view` int64 [B] their views, `size_hw` the crop size in
        pixels.
        """
        shifts = self.shifts[batch, view] * size_hw
        return Geometry(self.flips[batch, view], shifts.round().astype(int))

    def _take(self, index: tuple[Sequence[int] | slice, ...]) -> TeacherEmbeddings:
        return replace(
            self,
            embeddings=self.embeddings[index],
            flips=self.flips[index],
            shifts=self.shifts[index],
        )


def embed_views(
    model: EmbeddingModel,
    store: CropStore,
    views: int,
    pad_px: int,
    forward: ForwardFunction | None = None,
) -> TeacherEmbeddings:
    """Embed each crop of a store in `views` views.

    Args:
        model: the teacher and its preprocessing.
        store: N crops.
        views: V; view 0 is the crop itself, the others are drawn with a fixed seed.
        pad_px: largest offset of a view in each direction, in pixels.
        forward: replaces the model's network, for a teacher that is an exported file.
    """
    rng = np.random.default_rng(_SEED)
    count, (height, width) = len(store), store.crops.shape[1:3]
    flips = rng.random((count, views)) < 0.5
    offsets = rng.integers(-pad_px, pad_px, (count, views, 2), endpoint=True)
    flips[:, 0], offsets[:, 0] = False, 0
    fill = tuple(round(255 * channel) for channel in model.mean)
    embeddings = []
    for view in range(views):
        crops = store.crops
        if view:
            crops = _move_all(crops, Geometry(flips[:, view], offsets[:, view]), fill)
        description = f"Embedding view {view + 1} of {views}"
        vectors = embed(model, crops, store.camids, forward=forward, description=description)
        embeddings.append(torch.from_numpy(vectors).half())
    return TeacherEmbeddings(
        torch.stack(embeddings, dim=1),
        flips,
        (offsets / [height, width]).astype(np.float32),
    )


def _move_all(crops: np.ndarray, geometry: Geometry, fill_rgb: tuple[int, ...]) -> np.ndarray:
    """Return `move_crops` of crops uint8 [N, H, W, 3]; temporary copies are of one chunk only."""
    moved = np.empty_like(crops)
    for start in range(0, len(crops), MOVED_CROPS):
        rows = slice(start, start + MOVED_CROPS)
        chunk = Geometry(geometry.flip[rows], geometry.offset[rows])
        moved[rows] = move_crops(torch.from_numpy(crops[rows].copy()), chunk, fill_rgb).numpy()
    return moved


def save_embeddings(
    path: Path, embeddings: TeacherEmbeddings, records: Sequence[Record], source: str
) -> None:
    """Write the embeddings of `records`, made by the teacher named `source`."""
    tensors = {
        "embeddings": embeddings.embeddings,
        "flips": torch.from_numpy(embeddings.flips),
        "shifts": torch.from_numpy(embeddings.shifts),
        "images": torch.tensor([record.digest for record in records], dtype=torch.long),
    }
    metadata = {"source": source, "projected_dim": embeddings.projected_dim, "pids": None}
    if (classifier := embeddings.classifier) is not None:
        tensors |= {"classifier_weight": classifier.weight, "classifier_bias": classifier.bias}
        metadata["pids"] = classifier.pids
    save_tensors(path, KIND, tensors, metadata)


class MissingEmbeddingsError(PivlError):
    """A file of embeddings lacks images."""


def load_embeddings(path: Path, records: Sequence[Record]) -> TeacherEmbeddings:
    """Read the embeddings of `records`, in their order.

    Raises PivlError if the file is of another kind, MissingEmbeddingsError if it lacks an image.
    """
    _, tensors, metadata = load_tensors(path, KIND)
    projected_dim = metadata["projected_dim"]  # older files lack it, which raises
    with damage_named(path, KIND):
        _check_contents(tensors, projected_dim, metadata["pids"])
    row = {image: number for number, image in enumerate(tensors["images"].tolist())}
    if missing := [record.path.name for record in records if record.digest not in row]:
        raise MissingEmbeddingsError(
            f"{path} has no embedding of {len(missing)} of {len(records)} crops (first"
            f" {missing[0]}). Its teacher saw other images; run `pivl-distill teach` on these, or"
            " name another file or a network with --teacher."
        )
    classifier = None
    if (pids := metadata["pids"]) is not None:
        weight, bias = tensors["classifier_weight"], tensors["classifier_bias"]
        classifier = Classifier(weight, bias, tuple(pids))
    every = TeacherEmbeddings(
        tensors["embeddings"],
        tensors["flips"].numpy(),
        tensors["shifts"].numpy(),
        projected_dim,
        classifier,
    )
    return every.rows([row[record.digest] for record in records])


def _check_contents(tensors: Mapping[str, Tensor], projected_dim: object, pids: object) -> None:
    """Raise ValueError if the tensors of a file do not fit together."""
    check_tensors(tensors, _FORMS)
    count, views, dim = tensors["embeddings"].shape
    shapes = {"flips": (count, views), "shifts": (count, views, 2), "images": (count,)}
    if pids is not None:
        if not isinstance(pids, list) or not all(isinstance(pid, int) for pid in pids):
            raise ValueError("its pids are no list of numbers")
        check_tensors(tensors, _CLASSIFIER_FORMS)
        classes = len(pids)
        shapes |= {"classifier_weight": (classes, dim), "classifier_bias": (classes,)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(shape)}")
    if not isinstance(projected_dim, int) or not 0 <= projected_dim <= dim:
        raise ValueError(f"its projected dimension is {shown(projected_dim)}")
