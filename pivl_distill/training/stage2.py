"""Stage 2: the one training loop, for teacher and student alike (π-VL §3.4, Eq. 12).

Crops and maps are augmented together; the bank gives the texts. Order and augmentation of the data
depend on the seed and the epoch alone, so runs that differ only in their losses see the same data.
Several processes share the crops of a batch; its losses and their gradient stay those of one.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pivl_distill import ranks
from pivl_distill.alignment import Texts, alignment_loss, text_map
from pivl_distill.compiling import compile_body, pays
from pivl_distill.config import AugmentSettings, LossSettings, Stage2Settings
from pivl_distill.console import track
from pivl_distill.data.batches import PerCrop, to_device
from pivl_distill.data.sampling import Schedule
from pivl_distill.data.store import CropStore
from pivl_distill.data.transforms import Augmentation, Augmented, augment
from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.embedding import normalize_crops
from pivl_distill.errors import PivlError
from pivl_distill.fusion import FusedMap
from pivl_distill.losses import embedding_loss, identity_loss, image_to_text_loss, triplet_loss
from pivl_distill.microbatches import MicroBatches
from pivl_distill.norms import whole_batch_norms
from pivl_distill.precision import half_of, loss_scaler
from pivl_distill.reid import ReIDNetwork, ReIDOutput
from pivl_distill.runs import Run
from pivl_distill.schedules import floored_cosine, steps
from pivl_distill.whole_batch import begin_alike, gather, mean, sum_gradients

WARMUP_START = 0.02
"""Warm-up begins as if this share of an epoch had passed, so that the first step is not lost."""


def train(
    network: ReIDNetwork,
    store: CropStore,
    texts: Texts | None,
    settings: Stage2Settings,
    seed: int,
    run: Run,
    description: str,
) -> None:
    """Train `network` in place by Eq. 12; one line of metrics per epoch goes to the run."""
    require_crops(settings)
    stage = Stage2(network, store, texts, settings)
    totals = Totals()
    if pays(settings.compile, about_steps(store, settings), stage.device):
        compile_body(network.body, stage.device)
    steps = run.progress.remaining(
        "reid",
        schedule(store.pids, settings, seed),
        network=network,
        optimizer=stage.optimizer,
        scaler=stage.scaler,
        totals=totals,
    )
    begin_alike(network)
    start, crops_seen = time.monotonic(), 0
    network.train()
    for step in track(steps, description):
        set_rate(stage.optimizer, settings, step.epochs_before)
        totals.add(stage.step(step.batch, step.rng))
        crops_seen += len(step.batch)
        if step.ends_epoch:
            rate = crops_seen / (time.monotonic() - start)
            run.log(stage="reid", epoch=step.epoch + 1, crops_per_s=rate, **totals.mean())
            totals.clear()
    network.eval()


def schedule(pids: np.ndarray, settings: Stage2Settings, seed: int) -> Schedule:
    """Every step of a run; batches and augmentation of an epoch come from its own generator."""
    return Schedule(
        pids,
        settings.identities_per_batch,
        settings.crops_per_identity,
        settings.epochs,
        seed,
    )


def about_steps(store: CropStore, settings: Stage2Settings) -> int:
    """Steps of a run in which each crop is seen once in an epoch."""
    return (
        settings.epochs
        * len(store)
        // (settings.identities_per_batch * settings.crops_per_identity)
    )


def require_crops(settings: Stage2Settings) -> None:
    """PivlError unless every process has crops in every batch, and in every part of its share."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    if crops < ranks.size() * settings.accumulate:
        raise PivlError(
            f"{ranks.size()} processes cannot share a batch of {crops} crops in"
            f" {settings.accumulate} parts each; start fewer, or raise stage2.identities_per_batch."
        )


class Stage2:
    """One step of training: augment, forward, Eq. 12, update.

    On a GPU the host only hands out work: nothing in a step waits for a result, except a
    contrastive `align_distance` for the number of its cells.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        store: CropStore,
        texts: Texts | None,
        settings: Stage2Settings,
    ) -> None:
        # Crops arrive as [B, H, W, 3]; convolutions on a CPU are about twice as fast that way.
        self.network = network.to(memory_format=torch.channels_last)
        self.texts = texts
        self.settings = settings
        self.device = next(network.parameters()).device
        self.crops = PerCrop(store.crops, self.device)
        self.maps = None
        if texts is not None and store.maps is not None:
            self.maps = PerCrop(store.maps, self.device)
        self.confidence = None
        if self.maps is not None and store.confidence is not None:
            self.confidence = PerCrop(store.confidence, self.device)
        prepare(network, settings)
        labels = np.unique(store.pids, return_inverse=True)[1]
        self.labels = torch.from_numpy(labels).to(self.device)
        self.cameras = None
        if network.cameras:
            assert store.camids is not None  # whoever gave the network its cameras saw to it
            self.cameras = torch.from_numpy(store.camids).to(self.device)
        self.optimizer = make_optimizer(network, settings)
        self.scaler = loss_scaler(network.half_precision, self.device)
        self.augmentation = augmentation_of(settings.augment, texts)
        red, green, blue = (round(255 * channel) for channel in network.mean)
        self.fill_rgb = (red, green, blue)
        self.embeddings = None
        if store.embeddings is not None:
            self.embeddings = torch.from_numpy(store.embeddings).to(self.device)

    def step(self, batch: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train on the crops at indices `batch`; the loss terms and the training accuracy."""
        seen = self._augmented(batch, rng)
        own = ranks.share(len(batch))
        index = to_device(batch, self.device)
        inputs = [normalize_crops(seen.crops[own], self.network.mean, self.network.std)]
        if seen.noise is not None:
            seen.noise.put_into(inputs[0], own)
        if self.cameras is not None:
            inputs.append(self.cameras[index[own]])
        self.optimizer.zero_grad(set_to_none=True)
        with whole_batch_norms():
            if self.settings.accumulate > 1:
                parts = MicroBatches(self.network, inputs, self.settings.accumulate)
                terms = self._backward(self.network.heads(parts.encoded), index, seen)
                parts.backward()
            else:
                terms = self._backward(self.network(*inputs), index, seen)
        sum_gradients(self.network.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _backward(self, own: ReIDOutput, index: Tensor, seen: Augmented) -> dict[str, Tensor]:
        """The gradient of Eq. 12 for crops `index`; the loss terms and the training accuracy.

        `own` is what this process's share of them gave.
        """
        labels, output = self.labels[index], own.of_whole_batch(len(index))
        terms = loss_terms(
            output, labels, seen.maps, self.texts, self.settings.loss, seen.confidence
        )
        if self.embeddings is not None and output.distilled is not None:
            terms["embedding"] = self.settings.loss.embedding * embedding_loss(
                output.distilled, self.embeddings[index].float()
            )
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        accuracy = (output.logits[0].argmax(1) == labels).float().mean()
        return {**terms, "accuracy": accuracy}

    def _augmented(self, batch: np.ndarray, rng: np.random.Generator) -> Augmented:
        """The crops of a batch and what belongs to them, on the device."""
        crops, maps, mirror = self.crops.take(batch), None, None
        if self.maps is not None and self.texts is not None:
            maps, mirror = self.maps.take(batch), self.texts.vocabulary.mirror
        sure = None if self.confidence is None else self.confidence.take(batch)
        return augment(crops, maps, mirror, self.augmentation, self.fill_rgb, rng, sure)


def prepare(network: ReIDNetwork, settings: Stage2Settings) -> None:
    """Let the network compute in the precision, and keep as much, as the settings say."""
    network.half_precision = half_of(settings.precision, next(network.parameters()).device)
    if settings.checkpointing:
        network.checkpoint_blocks()


def augmentation_of(settings: AugmentSettings, texts: Texts | None) -> Augmentation:
    """What the settings ask for, in the texts' parts."""
    background = IGNORE if texts is None else texts.vocabulary.background
    return Augmentation(
        pad_px=settings.pad_px,
        flip_probability=settings.flip_probability,
        erase_probability=settings.erase_probability,
        noise=settings.fill == "noise",
        invented=background if settings.invented == "background" else IGNORE,
    )


def loss_terms(
    output: ReIDOutput,
    labels: Tensor,
    maps: Tensor | None,
    texts: Texts | None,
    settings: LossSettings,
    confidence: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 12: L_id + L_tri + L_i2tce + L_align.

    All see the whole batch, but `output.aligned` is this process's share of it.
    """
    smoothing = settings.label_smoothing
    identity = [identity_loss(logits, labels, smoothing) for logits in output.logits]
    triplet = [
        triplet_loss(features, labels, settings.triplet_margin, settings.triplet_normalize)
        for features in output.metric
    ]
    terms = {
        "identity": settings.identity * torch.stack(identity).sum(),
        "triplet": settings.triplet * torch.stack(triplet).sum(),
    }
    if texts is not None and output.projected is not None:
        terms["image_to_text"] = settings.image_to_text * image_to_text_loss(
            output.projected, texts.identity, labels, smoothing
        )
    if texts is not None and output.aligned is not None and maps is not None:
        terms["align"] = settings.align * align_term(
            output.aligned, labels, maps, texts, settings, confidence
        )
    return terms


def align_term(
    aligned: FusedMap,
    labels: Tensor,
    maps: Tensor,
    texts: Texts,
    settings: LossSettings,
    confidence: Tensor | None,
) -> Tensor:
    """L_align (Eq. 11) of a batch; `aligned` is this process's share of it.

    A mean over cells is put together from the means of all processes; only what is contrasted has
    to be in one place, for maps are by far the largest of all outputs.
    """
    own, contrasts = ranks.share(len(labels)), settings.align_distance == "contrastive"
    if contrasts and ranks.size() > 1:
        aligned, own = FusedMap(gather(aligned.full(), len(labels))), slice(None)
    sure = None if confidence is None else confidence[own]
    target = text_map(maps[own], labels[own], aligned.shape[2:], texts, settings, sure)
    loss = alignment_loss(aligned, target, settings.align_distance, settings.align_temperature)
    if contrasts or ranks.size() == 1:
        return loss
    return mean(loss, target.weight.sum())


def make_optimizer(network: ReIDNetwork, settings: Stage2Settings) -> torch.optim.Optimizer:
    """Adam; weight decay on matrices and kernels, and on biases and norms only if asked for.

    Each group's `lr_factor` is what `set_rate` multiplies the rate by.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.endswith("bias")]
    others = [p for name, p in named if not name.endswith("bias")]
    decayed, norms = [p for p in others if p.ndim > 1], [p for p in others if p.ndim <= 1]
    rest = settings.weight_decay if settings.weight_decay_on == "all" else 0.0
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "lr_factor": 1.0},
        {"params": norms, "weight_decay": rest, "lr_factor": 1.0},
        {"params": biases, "weight_decay": rest, "lr_factor": settings.bias_lr_factor},
    ]
    return torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, settings: Stage2Settings, epoch: float) -> None:
    """The rate that the settings' schedule has at `epoch`, counted from 0, with its fraction."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(settings, epoch) * group["lr_factor"]


def rate_at(settings: Stage2Settings, epoch: float) -> float:
    """The learning rate of weights at `epoch`, counted from 0, with its fraction."""
    if settings.schedule == "steps":
        return steps(
            int(epoch) + 1,
            settings.learning_rate,
            settings.milestones,
            settings.gamma,
            settings.warmup_epochs,
            settings.warmup_factor,
        )
    return floored_cosine(
        epoch,
        settings.epochs,
        settings.learning_rate,
        settings.min_lr_ratio * settings.learning_rate,
        settings.warmup_epochs,
        WARMUP_START,
    )


class Totals:
    """Running means of one epoch's loss terms and training accuracy."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a new epoch."""
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count one step; nothing leaves the device."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Means over the steps counted."""
        return {name: round((total / self.count).item(), 5) for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """For an epoch that is interrupted."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.sums, self.count = state["sums"], state["count"]
