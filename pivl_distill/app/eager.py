"""The PyTorch eager baseline of `bench`.

A module of its own: the process that measures its memory must not import ONNX Runtime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pivl_distill.app.networks import Cameras, load_checkpoint
from pivl_distill.models.embedding import EmbeddingModel


def eager(
    model: EmbeddingModel, device: str, batch: int, *, in_graph: bool = False
) -> Callable[[], torch.Tensor]:
    """Return a function that runs the network on `batch` random crops.

    It includes copies to and from the device, and preprocessing if `in_graph`.
    """
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
    """Load a checkpoint and run one batch on the CPU; `peak_memory` measures this."""
    torch.set_num_threads(threads)
    eager(load_checkpoint(checkpoint, cameras), "cpu", batch)()
