"""A teacher's embeddings of the training crops in a file, for students that imitate them.

The student process runs no CLIP, so what it is to imitate is computed beforehand, once per crop and
without augmentation. This is plain distillation, which the paper does not do; it is here to compare
the paper's texts with (readings 26).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel, embed
from pivl_distill.storage.tensors import load_tensors, save_tensors

KIND = "teacher embeddings"


def save_embeddings(
    path: Path, model: EmbeddingModel, store: CropStore, dataset: ReIDDataset
) -> None:
    """Embed the training crops and write their embeddings [N, F] in half precision, with names."""
    embeddings = embed(model, store.crops, store.camids, description="Embedding training crops")
    metadata = {"model": model.name, "dataset": dataset.name, "crops": _names(dataset)}
    save_tensors(path, KIND, {"embeddings": torch.from_numpy(embeddings).half()}, metadata)


def load_embeddings(path: Path, dataset: ReIDDataset) -> np.ndarray:
    """Embeddings float16 [N, F] of the training crops, in their order.

    Raises PivlError if the file is no such file or misses a crop.
    """
    _, tensors, metadata = load_tensors(path, KIND)
    row = {name: number for number, name in enumerate(metadata["crops"])}
    names = _names(dataset)
    if missing := [name for name in names if name not in row]:
        raise PivlError(
            f"{path} has no embedding of {len(missing)} of {len(names)} crops (first {missing[0]})."
            f" It was made from {metadata['dataset']}; run `pivl-distill teach` on this data set"
            " with --set save_teacher_embeddings=true."
        )
    embeddings: np.ndarray = tensors["embeddings"].numpy()[[row[name] for name in names]]
    return embeddings


def _names(dataset: ReIDDataset) -> list[str]:
    return [dataset.relative(record.path).as_posix() for record in dataset.train]
