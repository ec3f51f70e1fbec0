"""A network under PyTorch eager, as `bench` compares it; apart, so that ONNX Runtime is not loaded
where its memory is measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pivl_distill.app.targets import Cameras, load_checkpoint
from pivl_distill.models.embedding import EmbeddingModel


def eager(
    model: EmbeddingModel, device: str, batch: int, *, in_graph: bool = False
) -> Callable[[], torch.Tensor]:
    """A run on `batch` random crops, memory to memory; with its preprocessing if `in_graph`."""
    network = copy.deepcopy(model.network).to(device)
    crops = np.random.default_rng(0).integers(0, 256, (batch, *model.size_hw, 3), dtype=np.uint8)
    images = model.preprocess(crops)
    cameras = [torch.zeros(batch, dtype=torch.long, device=device)] if model.cameras else []

    @torch.inference_mode()
    def run() -> torch.Tensor:
        taken = model.preprocess(crops) if in_graph else images
        features: torch.Tensor = network(taken.to(device), *cameras)
        return features.cpu()

    return run


def run_eager_once(checkpoint: Path, cameras: Cameras, threads: int, batch: int) -> None:
    """Load a checkpoint and run one batch on the CPU: what `peak_memory` measures of it."""
    torch.set_num_threads(threads)
    eager(load_checkpoint(checkpoint, cameras), "cpu", batch)()
