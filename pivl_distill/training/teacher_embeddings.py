"""Teacher embeddings of the training crops in a file, as targets of `stage2.loss.embedding`.

A student process loads no CLIP, so the teacher embeds each crop once, without augmentation, before
the student trains. This is plain distillation, which the paper does not use; it is a baseline for
the paper's text supervision (readings 26).
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
    """Embed the training crops and write the embeddings float16 [N, F] with the crops' names."""
    embeddings = embed(model, store.crops, store.camids, description="Embedding training crops")
    metadata = {"model": model.name, "dataset": dataset.name, "crops": _crop_names(dataset)}
    save_tensors(path, KIND, {"embeddings": torch.from_numpy(embeddings).half()}, metadata)


def load_embeddings(path: Path, dataset: ReIDDataset) -> np.ndarray:
    """Read the embeddings float16 [N, F] of the training crops, in the order of `dataset.train`.

    Raises PivlError if the file is of another kind or lacks a crop.
    """
    _, tensors, metadata = load_tensors(path, KIND)
    row = {name: number for number, name in enumerate(metadata["crops"])}
    names = _crop_names(dataset)
    if missing := [name for name in names if name not in row]:
        raise PivlError(
            f"{path} has no embedding of {len(missing)} of {len(names)} crops (first {missing[0]})."
            f" It was made from {metadata['dataset']}; run `pivl-distill teach` on this data set"
            " with --set save_teacher_embeddings=true."
        )
    embeddings: np.ndarray = tensors["embeddings"].numpy()[[row[name] for name in names]]
    return embeddings


def _crop_names(dataset: ReIDDataset) -> list[str]:
    return [dataset.relative(record.path).as_posix() for record in dataset.train]
