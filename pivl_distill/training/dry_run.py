"""What a training would do and need, found out without training: the rows of `--dry-run`.

Networks are built at their true size. On the device "meta" they have shapes and no numbers, so that
the largest preset takes seconds anywhere; on a real device one step is run and timed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import DataSettings, Stage2Settings
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.sampling import epoch_rng
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.network import ReIDNetwork, ReIDOutput
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.stage2 import Stage2Trainer, configure_precision, make_sampler
from pivl_distill.training.stage2_run import Stage2Run

logger = logging.getLogger(__name__)

BYTES_PER_PARAMETER = 16
"""Per trained parameter: the weight, its gradient and Adam's two moments, float32 each."""


@dataclass(frozen=True)
class DryRunReport:
    """What was found out, as name → printable value, in the order of the work."""

    title: str
    rows: dict[str, object]


class SavedTensorBytes:
    """Bytes that autograd keeps for the backward pass, counted once per storage."""

    def __init__(self, network: nn.Module) -> None:
        self._known = {_storage(parameter) for parameter in network.parameters()}
        self.bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is being saved."""
        if (storage := _storage(tensor)) not in self._known:
            self._known.add(storage)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Count what is saved inside."""
        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor):
            yield


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, also on the meta device, where all addresses are 0."""
    return tensor.untyped_storage()._cdata


def run_forward(
    network: ReIDNetwork, text_features: TextFeatures | None, settings: Stage2Settings
) -> tuple[ReIDOutput, int]:
    """One batch of black crops, or as much of it as goes through the network at a time: the output
    and the bytes kept for its gradient.

    Raises PivlError unless output and texts have the same dimensions.
    """
    device = next(network.parameters()).device
    configure_precision(network, settings)
    batch = microbatch_size(settings)
    inputs = [torch.zeros(batch, 3, *network.size_hw, device=device)]
    if network.cameras:
        inputs.append(torch.zeros(batch, dtype=torch.long, device=device))
    memory = SavedTensorBytes(network)
    with memory.recording():
        output = network.train()(*inputs)
    if text_features is not None:
        _require_same("projected crops", output.projected, "identity texts", text_features.identity)
        _require_same("fused features", output.aligned, "part texts", text_features.part)
    return output, memory.bytes


def _require_same(
    name: str, features: Tensor | FusedMap | None, other: str, text_features: Tensor
) -> None:
    if features is not None and features.shape[1] != text_features.shape[-1]:
        raise PivlError(
            f"The {name} have {features.shape[1]} dimensions,"
            f" the {other} {text_features.shape[-1]}."
        )


def describe_stage2_run(
    run: Stage2Run, network: ReIDNetwork, store: CropStore, text_features: TextFeatures | None
) -> dict[str, object]:
    """Describe stage 2 of a network; time one step on the first batch `store` if not on meta."""
    settings = run.config.stage2
    rows = describe_stage2(network, run.pids, text_features, settings, run.config.seed)
    if run.device.type != "meta":
        text_features = text_features.to(run.device) if text_features else None
        rows |= describe_step(network, store, text_features, settings)
    return rows


def describe_stage2(
    network: ReIDNetwork,
    pids: np.ndarray,
    text_features: TextFeatures | None,
    settings: Stage2Settings,
    seed: int,
) -> dict[str, object]:
    """Parameters, steps, grids and memory of stage 2 of a network on crops of identities `pids`."""
    output, kept = run_forward(network, text_features, settings)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    bare = sum(p.numel() for p in network.embedding_model().network.parameters())
    per_epoch = make_sampler(pids, settings, seed).per_epoch()
    rows: dict[str, object] = {
        "stage 2: parameters": f"{trained:,} in training, {bare:,} afterwards",
        "stage 2: steps": f"{per_epoch[0]:,} in the first of {settings.epochs} epochs,"
        f" {sum(per_epoch):,} in all",
    }
    if output.aligned is not None:
        _, dim, *grid = output.aligned.shape
        rows["stage 2: aligned map"] = f"{grid[0]}×{grid[1]} cells of {dim} dimensions"
    rows["stage 2: precision"] = describe_precision(network, settings)
    again = ", blocks computed twice" if settings.checkpointing else ""
    rows["stage 2: memory"] = (
        f"at least {format_bytes(trained * BYTES_PER_PARAMETER)} of weights, gradients and"
        f" moments and {format_bytes(kept)} of activations of"
        f" {microbatch_size(settings)} crops{again}"
    )
    if settings.accumulate > 1:
        rows["stage 2: batch"] = f"in {settings.accumulate} parts, losses over the whole"
    return rows


def microbatch_size(settings: Stage2Settings) -> int:
    """Crops that go through the network together."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    return math.ceil(crops / settings.accumulate)


def describe_precision(network: ReIDNetwork, settings: Stage2Settings) -> str:
    """What the network computes in on its device."""
    device = next(network.parameters()).device
    if device.type == "meta":
        return f"{settings.precision}; the memory below is float32's"
    name = str(network.half_precision or torch.float32).removeprefix("torch.")
    return f"{name} on this {device.type}"


def describe_step(
    network: ReIDNetwork,
    store: CropStore,
    text_features: TextFeatures | None,
    settings: Stage2Settings,
) -> dict[str, object]:
    """Seconds of the second of two real training steps on one batch, and the memory they took.

    The crops of `store` take the place of the first identities; the network is changed.
    """
    device = next(network.parameters()).device
    stage, batch = (
        Stage2Trainer(network.train(), store, text_features, settings),
        np.arange(len(store)),
    )
    stage.step(batch, epoch_rng(0, 0))
    seconds = measure_seconds(lambda: stage.step(batch, epoch_rng(0, 0)), device)
    rows: dict[str, object] = {"stage 2: time": f"{seconds:.3g} s a step on this {device.type}"}
    if device.type == "cuda":
        rows["stage 2: peak"] = (
            f"{format_bytes(torch.cuda.max_memory_allocated(device))} on the device"
        )
    return rows


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, until the device is done with it."""
    start = time.monotonic()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - start


def building_on(device: torch.device, *, random_weights: bool) -> AbstractContextManager[Any]:
    """Create tensors inside on the meta device, if `device` is that and weights are random.

    Then they are never drawn. Weights from a file are read first and moved to the device after.
    """
    meta = device.type == "meta" and random_weights
    return device if meta else contextlib.nullcontext()


def note_random_weights(weights: str) -> None:
    """Tell the user that a dry run uses random weights in place of `weights`."""
    logger.info(
        f"A dry run does not download {weights}; random weights replace them. The architecture is"
        " the same."
    )


def describe_data(dataset: ReIDDataset, settings: DataSettings, *, maps: bool) -> dict[str, object]:
    """Crops, identities, maps, and the memory or disk that decoded training crops take."""
    images, identities, cameras = dataset.summary()["train"]
    mapped = sum(record.parsing is not None for record in dataset.train)
    height, width = settings.size_hw
    return {
        "data": f"{dataset.name}: {images:,} crops of {identities:,} identities, {cameras} cameras",
        "parsing maps": f"{mapped:,} of {images:,}" if maps else "not needed",
        "decoded crops": format_bytes(images * height * width * (4 if maps else 3)),
    }


def random_bank(dataset: ReIDDataset, dim: int, vocabulary: Vocabulary) -> PromptBank:
    """Random texts of `dim` dimensions in the shape of the bank that stage 1 would leave."""
    pids, parts = dataset.train_pids, len(vocabulary)
    return PromptBank(
        identity=torch.randn(len(pids), dim),
        part=torch.randn(len(pids), parts, dim),
        label=torch.randn(parts, dim),
        present=torch.ones(len(pids), parts, dtype=torch.bool),
        pids=pids,
        vocabulary=vocabulary,
        provenance={},
    )


def format_bytes(count: float) -> str:
    """Bytes as people say them.

    >>> size(1536 * 1024)
    '1.5 MiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
