"""Stage 2: the training loop of teachers and students (π-VL §3.4, Eq. 12).

Crops and part maps are augmented together. Order and augmentation depend only on the seed and the
epoch, so runs that differ only in their losses see the same data. Several processes share the crops
of a batch; losses and gradients equal those of a single process with the whole batch.
"""

from __future__ import annotations

import time

import numpy as np

from pivl_distill.config import Stage2Settings
from pivl_distill.console import track
from pivl_distill.data.sampling import PKSampler, Step
from pivl_distill.data.store import CropStore
from pivl_distill.distributed.collectives import broadcast_parameters
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import ReIDNetwork
from pivl_distill.runs.run import Run
from pivl_distill.training.compile import compile_body, should_compile
from pivl_distill.training.divergence import LossWatch
from pivl_distill.training.metrics import MetricAverages
from pivl_distill.training.optim import learning_rate_at, set_learning_rate
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from pivl_distill.training.validation import Validation


def train(
    network: ReIDNetwork,
    store: CropStore,
    supervision: Supervision,
    settings: Stage2Settings,
    seed: int,
    run: Run,
    description: str,
    validation: Validation | None = None,
    stage: str = "reid",
) -> EmbeddingModel:
    """Train `network` in place; write one line of metrics per epoch; return what to evaluate.

    That is the trained network, with average weights if the settings average them, or the best one
    of the validation if they keep it.

    Args:
        network: teacher or student, on the device to train on.
        store: the N training crops, with part maps if losses need them.
        supervision: targets of the losses; without labels, batches are random crops, not P×K.
        settings: optimizer, schedule, batches, augmentation and losses.
        seed: determines batches and augmentation.
        run: run folder; an interrupted run continues after its last saved step.
        description: label of the progress bar.
        validation: held-out identities to evaluate on, or None.
        stage: name of the stage in metrics and saved progress.

    Raises: PivlError with fewer than P identities; DivergenceError if training diverges.
    """
    trainer, averages = make_trainer(network, store, supervision, settings), MetricAverages()
    sampler = make_sampler(store.pids, settings, seed, shuffled=not supervision.labels)
    parts = trainer.stateful_parts(averages=averages, validation=validation)
    steps = run.progress.remaining_steps(stage, sampler, **parts)
    watch = LossWatch(f"{description} (stage {stage})", usual_causes(settings))
    broadcast_parameters(network)
    start, crops_seen = time.monotonic(), 0
    for step in track(steps, description):
        set_learning_rate(trainer.optimizer, settings, step.elapsed_epochs)
        reported = trainer.step(step.batch, step.rng, step.elapsed_epochs / settings.epochs)
        watch.add(reported, step.describe(settings.epochs))
        averages.add(reported)
        crops_seen += len(step.batch)
        if step.ends_epoch:
            watch.end_epoch(means := averages.mean(), step.epoch + 1)
            metrics = epoch_metrics(trainer, means, validation, step)
            rate = crops_seen / (time.monotonic() - start)
            run.log_metrics(stage=stage, epoch=step.epoch + 1, **metrics, crops_per_s=rate)
            averages.clear()
    network.eval()
    return trainer.model() if validation is None else validation.best_model(trainer.model())


def make_trainer(
    network: ReIDNetwork, store: CropStore, supervision: Supervision, settings: Stage2Settings
) -> Stage2Trainer:
    """Return the trainer of a network in training mode, compiled if the run is long."""
    trainer = Stage2Trainer(network, store, supervision, settings)
    if should_compile(settings.compile, estimate_steps(store, settings), trainer.device):
        compile_body(network.body, trainer.device)
    network.train()
    return trainer


def epoch_metrics(
    trainer: Stage2Trainer, means: dict[str, float], validation: Validation | None, step: Step
) -> dict[str, float]:
    """Return `means` of the epoch that `step` ends, its last learning rate, and scores if due."""
    rate, epoch = learning_rate_at(trainer.settings, step.elapsed_epochs), step.epoch + 1
    metrics = {**means, "learning_rate": rate}
    if validation is not None and validation.is_due(epoch):
        metrics |= validation.evaluate(trainer.model(), epoch)
        trainer.network.train()
    return metrics


def usual_causes(settings: Stage2Settings) -> dict[str, object]:
    """Return the settings that usually cause divergence, with their values."""
    names = ("learning_rate", "warmup_epochs", "max_gradient_norm", "precision")
    return {f"stage2.{name}": getattr(settings, name) for name in names}


def make_sampler(
    pids: np.ndarray, settings: Stage2Settings, seed: int, *, shuffled: bool = False
) -> PKSampler:
    """Return the batches of all epochs, P×K or shuffled; each epoch has a generator of its own.

    Shuffled batches are full ones: batch norm and comparisons within a batch need several crops.
    """
    return PKSampler(
        pids,
        settings.identities_per_batch,
        settings.crops_per_identity,
        settings.epochs,
        seed,
        shuffled,
        full_batches=True,
    )


def estimate_steps(store: CropStore, settings: Stage2Settings) -> int:
    """Return the number of steps if every epoch used each crop once."""
    return (
        settings.epochs
        * len(store)
        // (settings.identities_per_batch * settings.crops_per_identity)
    )
