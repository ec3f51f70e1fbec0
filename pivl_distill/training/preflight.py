"""Checks of everything that a training run needs later, before its first step.

`Stage2Run.prepare` and the stages collect what is wrong in `Problems`, and refuse all of it in one
error, before anything is written. Of image files only headers are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pivl_distill.config import Stage2Settings, StudentConfig, TeachConfig, TuningSettings
from pivl_distill.data.check import check_readable
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.sampling import check_identities
from pivl_distill.data.scan import OTHER_SIZE, scan_headers
from pivl_distill.data.scorable import TEST_SPLITS, check_scorable
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError, Problems

logger = logging.getLogger(__name__)

NO_EVALUATION = "Mend the data set, or train on it without scores by adding --no-evaluation."


def check_data(
    dataset: ReIDDataset,
    validation: ReIDDataset | None,
    config: TeachConfig | StudentConfig,
    problems: Problems,
) -> None:
    """Add what is wrong with the images, maps and labels that a run will read.

    Args:
        dataset: training split, and query and gallery if they are evaluated.
        validation: the held-out identities, or None.
        config: tells what is read.
        problems: to add to.
    """
    unmapped: dict[str, Iterable[Record]] = {} if config.uses_maps else {"train": dataset.train}
    if validation is not None:
        unmapped["validation"] = validation.gallery
    if config.data.evaluation:
        problems.attempt(check_scorable, dataset, NO_EVALUATION)
        unmapped |= {split: dataset.splits[split] for split in TEST_SPLITS}
    splits: dict[str, Iterable[Record]] = {"train": dataset.train} if config.uses_maps else {}
    for split, records in unmapped.items():
        splits[split] = [replace(record, parsing=None) for record in records]
    check_images(splits, dataset.root, problems)


def check_images(splits: Mapping[str, Iterable[Record]], root: Path, problems: Problems) -> None:
    """Add the images and maps whose headers cannot be read; warn of maps of another size.

    Names in messages are relative to `root`. One process of each machine reads the headers.
    """
    findings = process_group.broadcast_object_on_node(
        lambda: check_readable(scan_headers(splits, root))
    )
    for finding in findings:
        if not finding.found:
            continue
        line = f"{finding.subject}: {len(finding.found):,}, the first is {finding.found[0]}."
        if finding.subject == OTHER_SIZE:
            logger.warning(f"In {root}, {line} They are resized to their images.")
        else:
            problems.add(f"In {root}, {line} Replace or remove them.")


def check_batches(
    section: str,
    settings: Stage2Settings | TuningSettings,
    pids: np.ndarray,
    problems: Problems,
    *,
    shuffled: bool = False,
) -> None:
    """Add what makes the batches of a stage impossible.

    Args:
        section: of the settings: "stage2" or "tuning".
        settings: P and K.
        pids: int64 [N], the identity of each crop.
        problems: to add to.
        shuffled: whether batches are P·K crops of any identity.
    """
    p, k = settings.identities_per_batch, settings.crops_per_identity
    if not shuffled:
        problems.attempt(check_identities, pids, p, f"{section}.identities_per_batch")
    if min(p * k, len(pids)) < 2:
        problems.add(
            f"{section}.identities_per_batch {p} × {section}.crops_per_identity {k}, with"
            f" {len(pids)} crops in all, makes batches of one crop, in which batch norm and"
            " the losses have nothing to compare; a batch needs at least two."
        )


def check_batch_size(settings: Stage2Settings) -> None:
    """Raise PivlError unless each process has a crop for each micro-batch (`accumulate`)."""
    crops = settings.identities_per_batch * settings.crops_per_identity
    if crops < process_group.world_size() * settings.accumulate:
        raise PivlError(
            f"{process_group.world_size()} processes cannot share a batch of {crops} crops in"
            f" {settings.accumulate} parts each; start fewer, or raise stage2.identities_per_batch."
        )


def check_batch_norm(
    encode: Callable[..., object],
    size_hw: tuple[int, int],
    settings: Stage2Settings,
    device: torch.device,
    cameras: int = 0,
) -> None:
    """Raise PivlError if batch norm sees one value per channel in the smallest forward pass.

    That happens where a part of a batch (`accumulate`) is one crop and a map is one pixel. All
    processes together count as one, because batch norm is synchronised.

    Args:
        encode: the network without heads, in evaluation mode: [B, 3, H, W] → features.
        size_hw: height and width of its input in pixels.
        settings: of stage 2.
        device: of the network.
        cameras: number of camera ids, which `encode` then takes as int64 [B]; 0: none.
    """
    crops = settings.identities_per_batch * settings.crops_per_identity
    if crops // settings.accumulate > 1:
        return
    inputs = [torch.zeros(1, 3, *size_hw, device=device)]
    if cameras:
        inputs.append(torch.zeros(1, dtype=torch.long, device=device))
    norms = _BatchNormInputs()
    with torch.no_grad(), norms:
        encode(*inputs)
    if norms.values_per_channel == 1:
        raise PivlError(
            f"stage2.accumulate {settings.accumulate} splits a batch of {crops} crops into parts of"
            " one crop, in which a batch norm of this network has one value per channel; lower it"
            f" to {max(1, crops // 2)} or less, or raise stage2.identities_per_batch."
        )


class _BatchNormInputs(TorchFunctionMode):
    """Records the least number of values per channel that any batch norm inside gets."""

    values_per_channel: float = float("inf")

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            x: Tensor = args[0]
            self.values_per_channel = min(self.values_per_channel, x.numel() // x.shape[1])
        return func(*args, **(kwargs or {}))
