"""One step of stage 2: augment, forward, losses, backward, update."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pivl_distill.config import AugmentSettings, Stage2Settings
from pivl_distill.data.batches import DeviceArray, to_device
from pivl_distill.data.sampling import derived_rng
from pivl_distill.data.store import CropStore
from pivl_distill.data.transforms import Augmentation, Augmented, augment
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import all_reduce_gradients
from pivl_distill.distributed.sync_batchnorm import sync_batch_norm
from pivl_distill.models.embedding import EmbeddingModel, normalize_crops
from pivl_distill.models.network import ReIDNetwork, ReIDOutput
from pivl_distill.runs.state import OptimizerState, Stateful
from pivl_distill.training.compatibility import compatibility_terms
from pivl_distill.training.distillation import distillation_terms
from pivl_distill.training.grad_cache import GradCache
from pivl_distill.training.metrics import (
    ACCURACY,
    FEATURE_SPREAD,
    GRADIENT_NORM,
    feature_spread,
)
from pivl_distill.training.objective import loss_terms, part_term
from pivl_distill.training.optim import clip_gradients, make_optimizer
from pivl_distill.training.precision import configure_precision, loss_scaler
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.weight_average import WeightAverage


class Stage2Trainer:
    """Optimizer and device data of stage 2; `step` augments, runs Eq. 12 and updates the weights.

    On a GPU no step synchronises with the host, with one exception: a contrastive `align_distance`
    needs the number of labelled cells.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        store: CropStore,
        supervision: Supervision,
        settings: Stage2Settings,
    ) -> None:
        # Crops are stored as [B, H, W, 3]; convolutions on a CPU are twice as fast in that layout.
        self.network = network.to(memory_format=torch.channels_last)
        self.store, self.supervision, self.settings = store, supervision, settings
        self.device = next(network.parameters()).device
        self.crops = DeviceArray(store.crops, self.device)
        self.vocabulary = supervision.vocabulary
        self.maps = None
        if self.vocabulary is not None and store.maps is not None:
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
        self.average: WeightAverage | None = None
        if settings.average_decay:
            self.average = WeightAverage(network.embedding_model(), settings.average_decay)
        self.augmentation = make_augmentation(settings.augment, self.vocabulary)
        red, green, blue = (round(255 * channel) for channel in network.mean)
        self.fill_rgb = (red, green, blue)

    def stateful_parts(self, **more: Stateful | None) -> dict[str, Stateful]:
        """Return what a resumed run restores, by name, with the parts `more` that are not None."""
        parts = {
            "network": self.network,
            "optimizer": OptimizerState(self.optimizer),
            "scaler": self.scaler,
            "average": self.average,
            **more,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def model(self) -> EmbeddingModel:
        """Return the network to evaluate: that of the average weights if they are averaged."""
        model = self.network.embedding_model()
        return model if self.average is None else self.average.averaged_model(model, self.store)

    def step(
        self, batch: np.ndarray, rng: np.random.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Train on one batch; return the weighted loss terms and the `MEASURES` of the batch.

        Args:
            batch: int64 [B], indices of crops.
            rng: draws their augmentation.
            progress: the completed share of training in 0..1, for scheduled weights.
        """
        view = self._draw_views(len(batch), rng)
        augmented = self._augment(batch, view, rng)
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
                reported = self._backward(output, index, view, augmented, progress)
                grad_cache.backward()
            else:
                output = self.network(*inputs)
                reported = self._backward(output, index, view, augmented, progress)
        all_reduce_gradients(self.network.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.network, self.settings.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        if self.scaler.is_enabled():
            # A step that float16 skips because of an overflow counts as 0.
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        return {**reported, GRADIENT_NORM: norm}

    def _backward(
        self,
        shard_output: ReIDOutput,
        index: Tensor,
        view: np.ndarray,
        augmented: Augmented,
        progress: float,
    ) -> dict[str, Tensor]:
        """Backpropagate the loss for the crops `index` [B]; return its terms and measures.

        `shard_output` is the network's output for this process's shard of the crops.
        """
        labels, output = self.labels[index], shard_output.all_gathered(len(index))
        supervision, terms = self.supervision, {}
        if supervision.labels:
            terms = loss_terms(
                output,
                labels,
                augmented.maps,
                supervision.texts,
                self.settings.loss,
                augmented.confidence,
            )
        if supervision.teacher is not None:
            views = to_device(view, self.device)
            terms |= distillation_terms(output, index, views, supervision.teacher)
        if supervision.gallery is not None:
            terms |= compatibility_terms(output, index, labels, supervision.gallery)
        if supervision.part_texts is not None and augmented.maps is not None:
            terms |= part_term(
                self.network,
                output,
                labels,
                augmented.maps,
                supervision.part_texts,
                progress,
            )
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        measured = {FEATURE_SPREAD: feature_spread(output.features[-1].detach())}
        if supervision.labels:
            measured[ACCURACY] = (output.logits[0].argmax(1) == labels).float().mean()
        return {**terms, **measured}

    def _draw_views(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return the view int64 [count] that the student sees of each crop; `rng` is unchanged."""
        teacher = self.supervision.teacher
        views = 1 if teacher is None else teacher.embeddings.views
        return derived_rng(rng).integers(views, size=count)

    def _augment(self, batch: np.ndarray, view: np.ndarray, rng: np.random.Generator) -> Augmented:
        """Return the augmented crops of a batch with their maps and confidences, on the device.

        With several stored views, flips and shifts are those of the view.
        """
        maps = mirror = geometry = None
        if self.maps is not None and self.vocabulary is not None:
            maps, mirror = self.maps.take(batch), self.vocabulary.mirror
        teacher = self.supervision.teacher
        if teacher is not None and teacher.embeddings.views > 1:
            geometry = teacher.geometry(batch, view, self.network.size_hw)
        return augment(
            self.crops.take(batch),
            maps,
            mirror,
            self.augmentation,
            self.fill_rgb,
            rng,
            None if self.confidence is None else self.confidence.take(batch),
            geometry,
        )


def make_augmentation(settings: AugmentSettings, vocabulary: Vocabulary | None) -> Augmentation:
    """Return the augmentation of the settings; invented pixels get a label of the vocabulary."""
    background = IGNORE if vocabulary is None else vocabulary.background
    return Augmentation(
        pad_px=settings.pad_px,
        flip_probability=settings.flip_probability,
        erase_probability=settings.erase_probability,
        noise=settings.fill == "noise",
        invented=background if settings.invented == "background" else IGNORE,
    )
