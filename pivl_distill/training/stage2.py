"""Stage 2: the training loop of teachers and students (π-VL §3.4, Eq. 12).

Crops and part maps are augmented together. Order and augmentation depend only on the seed and the
epoch, so runs that differ only in their losses see the same data. Several processes share the crops
of a batch; losses and gradients equal those of a single process with the whole batch.
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
from pivl_distill.training.precision import configure_precision, loss_scaler


def train(
    network: ReIDNetwork,
    store: CropStore,
    text_features: TextFeatures | None,
    settings: Stage2Settings,
    seed: int,
    run: Run,
    description: str,
) -> None:
    """Train `network` in place by Eq. 12; write one line of metrics per epoch to the run.

    Args:
        network: teacher or student, on the device to train on.
        store: the N training crops, with part maps and teacher embeddings if losses need them.
        text_features: targets of Eqs. 3 and 11; None trains on identity labels alone.
        settings: optimizer, schedule, batches, augmentation and losses.
        seed: determines batches and augmentation.
        run: run folder; an interrupted run continues after its last saved step.
        description: label of the progress bar.

    Raises:
        PivlError: a process would have no crops in a batch, or there are fewer than P identities.
    """
    check_batch_size(settings)
    trainer = Stage2Trainer(network, store, text_features, settings)
    averages = MetricAverages()
    if should_compile(settings.compile, estimate_steps(store, settings), trainer.device):
        compile_body(network.body, trainer.device)
    steps = run.progress.remaining_steps(
        "reid",
        make_sampler(store.pids, settings, seed),
        network=network,
        optimizer=trainer.optimizer,
        scaler=trainer.scaler,
        averages=averages,
    )
    broadcast_parameters(network)
    start, crops_seen = time.monotonic(), 0
    network.train()
    for step in track(steps, description):
        set_learning_rate(trainer.optimizer, settings, step.elapsed_epochs)
        averages.add(trainer.step(step.batch, step.rng))
        crops_seen += len(step.batch)
        if step.ends_epoch:
            rate = crops_seen / (time.monotonic() - start)
            run.log_metrics(stage="reid", epoch=step.epoch + 1, crops_per_s=rate, **averages.mean())
            averages.clear()
    network.eval()


def make_sampler(pids: np.ndarray, settings: Stage2Settings, seed: int) -> PKSampler:
    """Return the P×K batches of all epochs; each epoch has a random generator of its own."""
    return PKSampler(
        pids,
        settings.identities_per_batch,
        settings.crops_per_identity,
        settings.epochs,
        seed,
    )


def estimate_steps(store: CropStore, settings: Stage2Settings) -> int:
    """Return the number of steps if every epoch used each crop once."""
    return (
        settings.epochs
        * len(store)
        // (settings.identities_per_batch * settings.crops_per_identity)
    )


def check_batch_size(settings: Stage2Settings) -> None:
    """Raise PivlError unless each process has a crop for each micro-batch (`accumulate`)."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    if crops < process_group.world_size() * settings.accumulate:
        raise PivlError(
            f"{process_group.world_size()} processes cannot share a batch of {crops} crops in"
            f" {settings.accumulate} parts each; start fewer, or raise stage2.identities_per_batch."
        )


class Stage2Trainer:
    """Optimizer and device data of stage 2; `step` augments, runs Eq. 12 and updates the weights.

    On a GPU no step synchronises with the host, with one exception: a contrastive `align_distance`
    needs the number of labelled cells.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        store: CropStore,
        text_features: TextFeatures | None,
        settings: Stage2Settings,
    ) -> None:
        # Crops are stored as [B, H, W, 3]; convolutions on a CPU are twice as fast in that layout.
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
            assert store.camids is not None  # checked when the network got its camera embeddings
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
        """Train on one batch; return the weighted loss terms and the training accuracy.

        `batch` int64 [B] are indices of crops; `rng` draws their augmentation.
        """
        augmented = self._augment(batch, rng)
        shard = process_group.shard(len(batch))
        index = to_device(batch, self.device)
        inputs = [normalize_crops(augmented.crops[shard], self.network.mean, self.network.std)]
        if augmented.noise is not None:
            augmented.noise.fill_boxes(inputs[0], shard)
        if self.cameras is not None:
            inputs.append(self.cameras[index[shard]])
        self.optimizer.zero_grad(set_to_none=True)
        with sync_batch_norm():
            if self.settings.accumulate > 1:
                grad_cache = GradCache(self.network, inputs, self.settings.accumulate)
                output = self.network.forward_heads(grad_cache.encoded)
                terms = self._backward(output, index, augmented)
                grad_cache.backward()
            else:
                terms = self._backward(self.network(*inputs), index, augmented)
        all_reduce_gradients(self.network.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _backward(
        self, shard_output: ReIDOutput, index: Tensor, augmented: Augmented
    ) -> dict[str, Tensor]:
        """Backpropagate Eq. 12 for the crops `index` [B]; return its terms and the accuracy.

        `shard_output` is the network's output for this process's shard of the crops.
        """
        labels, output = self.labels[index], shard_output.all_gathered(len(index))
        terms = loss_terms(
            output,
            labels,
            augmented.maps,
            self.text_features,
            self.settings.loss,
            augmented.confidence,
        )
        if self.teacher_embeddings is not None and output.distilled_embedding is not None:
            terms["embedding"] = self.settings.loss.embedding * embedding_loss(
                output.distilled_embedding, self.teacher_embeddings[index].float()
            )
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        accuracy = (output.logits[0].argmax(1) == labels).float().mean()
        return {**terms, "accuracy": accuracy}

    def _augment(self, batch: np.ndarray, rng: np.random.Generator) -> Augmented:
        """Return the augmented crops of a batch with their maps and confidences, on the device."""
        crops, maps, mirror = self.crops.take(batch), None, None
        if self.maps is not None and self.text_features is not None:
            maps, mirror = self.maps.take(batch), self.text_features.vocabulary.mirror
        confidence = None if self.confidence is None else self.confidence.take(batch)
        return augment(crops, maps, mirror, self.augmentation, self.fill_rgb, rng, confidence)


def make_augmentation(
    settings: AugmentSettings, text_features: TextFeatures | None
) -> Augmentation:
    """Return the augmentation of the settings; invented pixels get a label of the text features."""
    background = IGNORE if text_features is None else text_features.vocabulary.background
    return Augmentation(
        pad_px=settings.pad_px,
        flip_probability=settings.flip_probability,
        erase_probability=settings.erase_probability,
        noise=settings.fill == "noise",
        invented=background if settings.invented == "background" else IGNORE,
    )
