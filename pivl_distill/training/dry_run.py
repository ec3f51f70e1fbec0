"""Dry runs (`--dry-run`): size, steps, memory and speed of a training run, without training.

Networks are built at full size. On the device "meta" they have shapes but no data, so that the
largest preset takes seconds on any machine; on a real device one step is run and timed.
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
from pivl_distill.console import format_bytes
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.sampling import epoch_rng
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.network import ReIDNetwork, ReIDOutput
from pivl_distill.training.divergence import LossWatch
from pivl_distill.training.precision import configure_precision
from pivl_distill.training.stage2 import make_sampler, usual_causes
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer

logger = logging.getLogger(__name__)

MIDDLE = 0.5
"""Share of training at which every scheduled term has its full weight."""

BYTES_PER_PARAMETER = 16
"""Bytes per trained parameter: weight, gradient and Adam's two moments, float32 each."""


@dataclass(frozen=True)
class DryRunReport:
    """Findings of a dry run: name → printable value, in the order of the stages."""

    title: str
    rows: dict[str, object]


class SavedTensorBytes:
    """Bytes that autograd saves for the backward pass; each storage counts once, weights do not."""

    def __init__(self, network: nn.Module) -> None:
        self._known = {_storage(parameter) for parameter in network.parameters()}
        self.bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor and return it unchanged."""
        if (storage := _storage(tensor)) not in self._known:
            self._known.add(storage)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Count the tensors that autograd saves inside."""
        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor):
            yield


def _storage(tensor: Tensor) -> int:
    """Return an id of the storage; `data_ptr` is 0 for every tensor on the meta device."""
    return tensor.untyped_storage()._cdata


def run_forward(
    network: ReIDNetwork, supervision: Supervision, settings: Stage2Settings
) -> tuple[ReIDOutput, int]:
    """Run one micro-batch of black crops; return the output and the bytes saved for its gradient.

    Raises PivlError if output and text features have different dimensions.
    """
    device = next(network.parameters()).device
    configure_precision(network, settings)
    batch = microbatch_size(settings)
    inputs = [torch.zeros(batch, 3, *network.size_hw, device=device)]
    if network.cameras:
        inputs.append(torch.zeros(batch, dtype=torch.long, device=device))
    memory = SavedTensorBytes(network)
    with memory.recording():
        encoded = network.train().encode(*inputs)
        if batch == 1:  # the heads see the whole batch, and their batch norm needs two crops
            encoded = encoded.with_tensors([torch.cat([x, x]) for x in encoded.tensors()])
        output = network.forward_heads(encoded)
    if (texts := supervision.texts) is not None:
        _check_dim("projected crops", output.projected, "identity texts", texts.identity)
        _check_dim("fused features", output.aligned, "part texts", texts.part)
    return output, memory.bytes


def _check_dim(
    name: str, features: Tensor | FusedMap | None, other: str, text_features: Tensor
) -> None:
    if features is not None and features.shape[1] != text_features.shape[-1]:
        raise PivlError(
            f"The {name} have {features.shape[1]} dimensions,"
            f" the {other} {text_features.shape[-1]}."
        )


def describe_stage2_run(
    run: Stage2Run, network: ReIDNetwork, store: CropStore, supervision: Supervision
) -> dict[str, object]:
    """Describe stage 2 of a network; time one step on the first batch `store` if not on meta."""
    settings = run.config.stage2
    rows = describe_stage2(network, run.pids, supervision, settings, run.config.seed)
    if run.device.type != "meta":
        rows |= describe_step(network, store, supervision, settings)
    return rows


def describe_stage2(
    network: ReIDNetwork,
    pids: np.ndarray,
    supervision: Supervision,
    settings: Stage2Settings,
    seed: int,
) -> dict[str, object]:
    """Return rows about a network's parameters, steps, aligned map, precision and memory.

    Args:
        network: built at full size, on its device.
        pids: int64 [N], the identity of each training crop.
        supervision: targets of the losses.
        settings: of stage 2.
        seed: determines the batches.

    Raises:
        PivlError: output and text features have different dimensions.
    """
    output, saved_bytes = run_forward(network, supervision, settings)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    exported = sum(p.numel() for p in network.embedding_model().network.parameters())
    per_epoch = make_sampler(pids, settings, seed).per_epoch()
    rows: dict[str, object] = {
        "stage 2: parameters": f"{trained:,} in training, {exported:,} afterwards",
        "stage 2: steps": f"{per_epoch[0]:,} in the first of {settings.epochs} epochs,"
        f" {sum(per_epoch):,} in all",
    }
    if output.aligned is not None:
        _, dim, *grid = output.aligned.shape
        rows["stage 2: aligned map"] = f"{grid[0]}×{grid[1]} cells of {dim} dimensions"
    rows["stage 2: precision"] = describe_precision(network, settings)
    checkpointing = ", with gradient checkpointing" if settings.checkpointing else ""
    rows["stage 2: memory"] = (
        f"at least {format_bytes(trained * BYTES_PER_PARAMETER)} of weights, gradients and"
        f" moments and {format_bytes(saved_bytes)} of activations of"
        f" {microbatch_size(settings)} crops{checkpointing}"
    )
    if settings.accumulate > 1:
        rows["stage 2: batch"] = f"{settings.accumulate} micro-batches, losses over the full batch"
    return rows


def microbatch_size(settings: Stage2Settings) -> int:
    """Return the number of crops in one forward pass."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    return math.ceil(crops / settings.accumulate)


def describe_precision(network: ReIDNetwork, settings: Stage2Settings) -> str:
    """Return the number format of the network on its device."""
    device = next(network.parameters()).device
    if device.type == "meta":
        return f"{settings.precision}; the memory below assumes float32"
    name = str(network.half_precision or torch.float32).removeprefix("torch.")
    return f"{name} on this {device.type}"


def describe_step(
    network: ReIDNetwork,
    store: CropStore,
    supervision: Supervision,
    settings: Stage2Settings,
) -> dict[str, object]:
    """Run two training steps on the crops of `store`; return the second's seconds and peak memory.

    The crops are labelled as the first identities, whatever their pids. Changes the network. Raises
    DivergenceError if a loss or gradient is not finite.
    """
    device = next(network.parameters()).device
    trainer = Stage2Trainer(network, store, supervision, settings)
    batch = np.arange(len(store))
    network.train()
    watch = LossWatch("Stage 2", usual_causes(settings))

    def step() -> None:
        watch.add(trainer.step(batch, epoch_rng(0, 0), MIDDLE), "the dry run")

    step()
    seconds = measure_seconds(step, device)
    watch.flush()
    rows: dict[str, object] = {"stage 2: time": f"{seconds:.3g} s a step on this {device.type}"}
    if device.type == "cuda":
        rows["stage 2: peak"] = (
            f"{format_bytes(torch.cuda.max_memory_allocated(device))} on the device"
        )
    return rows


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, including its work on the device."""
    start = time.monotonic()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - start


def building_on(device: torch.device, *, random_weights: bool) -> AbstractContextManager[Any]:
    """Create tensors on the meta device inside, if `device` is "meta" and weights are random.

    Random weights are then never drawn. Weights from a file are loaded on the CPU as usual.
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
    """Return rows about the training split and the memory of its decoded crops and maps."""
    counts = dataset.summary()
    images, identities, cameras = counts["train"]
    mapped = sum(record.parsing is not None for record in dataset.train)
    height, width = settings.size_hw
    return {
        "data": f"{dataset.name}: {images:,} crops of {identities:,} identities, {cameras} cameras",
        "parsing maps": f"{mapped:,} of {images:,}" if maps else "not needed",
        "decoded crops": format_bytes(images * height * width * (4 if maps else 3)),
        "evaluation": f"{counts['query'][0]:,} queries in a gallery of {counts['gallery'][0]:,}"
        if settings.evaluation
        else "not measured (--no-evaluation)",
    }


def random_bank(pids: tuple[int, ...], dim: int, vocabulary: Vocabulary) -> PromptBank:
    """Return a bank of random texts: `dim` dimensions, one row per pid, every part present."""
    parts = len(vocabulary)
    return PromptBank(
        identity=torch.randn(len(pids), dim),
        part=torch.randn(len(pids), parts, dim),
        label=torch.randn(parts, dim),
        present=torch.ones(len(pids), parts, dtype=torch.bool),
        pids=pids,
        vocabulary=vocabulary,
        provenance={},
    )
