"""Stage 2: the one training loop, for teacher and student alike (π-VL §3.4, Eq. 12).

Crops and maps are augmented together; the bank gives the texts. Order and augmentation of the data
depend on the seed and the epoch alone, so runs that differ only in their losses see the same data.
Several processes share the crops of a batch; its losses and their gradient stay those of one.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from pivl_distill.config import AugmentSettings, Stage2Settings
from pivl_distill.console import track
from pivl_distill.data.batches import DeviceArray, to_device
from pivl_distill.data.sampling import PKSampler
from pivl_distill.data.store import CropStore
from pivl_distill.data.transforms import Augmentation, Augmented, augment
from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import (
    all_reduce_gradients,
    broadcast_parameters,
)
from pivl_distill.distributed.sync_batchnorm import sync_batch_norm
from pivl_distill.errors import PivlError
from pivl_distill.losses import embedding_loss
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.models.network import ReIDNetwork, ReIDOutput
from pivl_distill.runs.run import Run
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.compile import compile_body, should_compile
from pivl_distill.training.grad_cache import GradCache
from pivl_distill.training.metrics import MetricAverages
from pivl_distill.training.objective import loss_terms
from pivl_distill.training.optim import (
    make_optimizer,
    set_learning_rate,
)
from pivl_distill.training.precision import half_dtype, loss_scaler


def train(
    network: ReIDNetwork,
    store: CropStore,
    text_features: TextFeatures | None,
    settings: Stage2Settings,
    seed: int,
    run: Run,
    description: str,
) -> None:
    """Train `network` in place by Eq. 12; one line of metrics per epoch goes to the run."""
    check_batch_size(settings)
    stage = Stage2Trainer(network, store, text_features, settings)
    totals = MetricAverages()
    if should_compile(settings.compile, estimated_steps(store, settings), stage.device):
        compile_body(network.body, stage.device)
    steps = run.progress.remaining_steps(
        "reid",
        make_sampler(store.pids, settings, seed),
        network=network,
        optimizer=stage.optimizer,
        scaler=stage.scaler,
        totals=totals,
    )
    broadcast_parameters(network)
    start, crops_seen = time.monotonic(), 0
    network.train()
    for step in track(steps, description):
        set_learning_rate(stage.optimizer, settings, step.epochs_before)
        totals.add(stage.step(step.batch, step.rng))
        crops_seen += len(step.batch)
        if step.ends_epoch:
            rate = crops_seen / (time.monotonic() - start)
            run.log_metrics(stage="reid", epoch=step.epoch + 1, crops_per_s=rate, **totals.mean())
            totals.clear()
    network.eval()


def make_sampler(pids: np.ndarray, settings: Stage2Settings, seed: int) -> PKSampler:
    """Every step of a run; batches and augmentation of an epoch come from its own generator."""
    return PKSampler(
        pids,
        settings.identities_per_batch,
        settings.crops_per_identity,
        settings.epochs,
        seed,
    )


def estimated_steps(store: CropStore, settings: Stage2Settings) -> int:
    """Steps of a run in which each crop is seen once in an epoch."""
    return (
        settings.epochs
        * len(store)
        // (settings.identities_per_batch * settings.crops_per_identity)
    )


def check_batch_size(settings: Stage2Settings) -> None:
    """PivlError unless every process has crops in every batch, and in every part of its share."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    if crops < process_group.world_size() * settings.accumulate:
        raise PivlError(
            f"{process_group.world_size()} processes cannot share a batch of {crops} crops in"
            f" {settings.accumulate} parts each; start fewer, or raise stage2.identities_per_batch."
        )


class Stage2Trainer:
    """One step of training: augment, forward, Eq. 12, update.

    On a GPU the host only hands out work: nothing in a step waits for a result, except a
    contrastive `align_distance` for the number of its cells.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        store: CropStore,
        text_features: TextFeatures | None,
        settings: Stage2Settings,
    ) -> None:
        # Crops arrive as [B, H, W, 3]; convolutions on a CPU are about twice as fast that way.
        self.network = network.to(memory_format=torch.channels_last)
        self.text_features = text_features
        self.settings = settings
        self.device = next(network.parameters()).device
        self.crops = DeviceArray(store.crops, self.device)
        self.maps = None
        if text_features is not None and store.maps is not None:
            self.maps = DeviceArray(store.maps, self.device)
        self.confidence = None
        if self.maps is not None and store.confidence is not None:
            self.confidence = DeviceArray(store.confidence, self.device)
        configure_precision(network, settings)
        labels = np.unique(store.pids, return_inverse=True)[1]
        self.labels = torch.from_numpy(labels).to(self.device)
        self.cameras = None
        if network.cameras:
            assert store.camids is not None  # whoever gave the network its cameras saw to it
            self.cameras = torch.from_numpy(store.camids).to(self.device)
        self.optimizer = make_optimizer(network, settings)
        self.scaler = loss_scaler(network.half_precision, self.device)
        self.augmentation = make_augmentation(settings.augment, text_features)
        red, green, blue = (round(255 * channel) for channel in network.mean)
        self.fill_rgb = (red, green, blue)
        self.teacher_embeddings = None
        if store.teacher_embeddings is not None:
            self.teacher_embeddings = torch.from_numpy(store.teacher_embeddings).to(self.device)

    def step(self, batch: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train on the crops at indices `batch`; the loss terms and the training accuracy."""
        seen = self._augmented(batch, rng)
        own = process_group.shard(len(batch))
        index = to_device(batch, self.device)
        inputs = [normalize_crops(seen.crops[own], self.network.mean, self.network.std)]
        if seen.noise is not None:
            seen.noise.put_into(inputs[0], own)
        if self.cameras is not None:
            inputs.append(self.cameras[index[own]])
        self.optimizer.zero_grad(set_to_none=True)
        with sync_batch_norm():
            if self.settings.accumulate > 1:
                parts = GradCache(self.network, inputs, self.settings.accumulate)
                terms = self._backward(self.network.forward_heads(parts.encoded), index, seen)
                parts.backward()
            else:
                terms = self._backward(self.network(*inputs), index, seen)
        all_reduce_gradients(self.network.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _backward(self, own: ReIDOutput, index: Tensor, seen: Augmented) -> dict[str, Tensor]:
        """The gradient of Eq. 12 for crops `index`; the loss terms and the training accuracy.

        `own` is what this process's share of them gave.
        """
        labels, output = self.labels[index], own.all_gathered(len(index))
        terms = loss_terms(
            output, labels, seen.maps, self.text_features, self.settings.loss, seen.confidence
        )
        if self.teacher_embeddings is not None and output.distilled_embedding is not None:
            terms["embedding"] = self.settings.loss.embedding * embedding_loss(
                output.distilled_embedding, self.teacher_embeddings[index].float()
            )
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        accuracy = (output.logits[0].argmax(1) == labels).float().mean()
        return {**terms, "accuracy": accuracy}

    def _augmented(self, batch: np.ndarray, rng: np.random.Generator) -> Augmented:
        """The crops of a batch and what belongs to them, on the device."""
        crops, maps, mirror = self.crops.take(batch), None, None
        if self.maps is not None and self.text_features is not None:
            maps, mirror = self.maps.take(batch), self.text_features.vocabulary.mirror
        sure = None if self.confidence is None else self.confidence.take(batch)
        return augment(crops, maps, mirror, self.augmentation, self.fill_rgb, rng, sure)


def configure_precision(network: ReIDNetwork, settings: Stage2Settings) -> None:
    """Let the network compute in the precision, and keep as much, as the settings say."""
    network.half_precision = half_dtype(settings.precision, next(network.parameters()).device)
    if settings.checkpointing:
        network.enable_gradient_checkpointing()


def make_augmentation(
    settings: AugmentSettings, text_features: TextFeatures | None
) -> Augmentation:
    """What the settings ask for, in the texts' parts."""
    background = IGNORE if text_features is None else text_features.vocabulary.background
    return Augmentation(
        pad_px=settings.pad_px,
        flip_probability=settings.flip_probability,
        erase_probability=settings.erase_probability,
        noise=settings.fill == "noise",
        invented=background if settings.invented == "background" else IGNORE,
    )
