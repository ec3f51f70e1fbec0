"""Optimizer and learning-rate schedule of stage 2."""

from __future__ import annotations

import torch
from torch import nn

from pivl_distill.config import Stage2Settings
from pivl_distill.models.network import ReIDNetwork
from pivl_distill.training.lr_schedules import floored_cosine, multistep

WARMUP_START = 0.02
"""Epochs added to the warm-up, so that the learning rate of the first step is not 0."""


def make_optimizer(network: ReIDNetwork, settings: Stage2Settings) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the trainable parameters: weights, norms and biases.

    Norms and biases have weight decay only with `weight_decay_on` "all". `set_learning_rate`
    multiplies the learning rate by each group's `lr_factor`.
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
    optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return optimizer(groups, lr=settings.learning_rate, fused=True)


def clip_gradients(network: ReIDNetwork, limit: float | None) -> torch.Tensor:
    """Scale the gradient of all parameters down to the norm `limit`; return its norm before."""
    parameters = [p for p in network.parameters() if p.grad is not None]
    if limit is None:
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, limit)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: Stage2Settings, epoch: float
) -> None:
    """Set the learning rate of all groups to the schedule's at `epoch`, fractional, from 0."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(settings, epoch) * group["lr_factor"]


def learning_rate_at(settings: Stage2Settings, epoch: float) -> float:
    """Return the schedule's learning rate at `epoch`, fractional, counted from 0."""
    if settings.lr_schedule == "multistep":
        return multistep(
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
