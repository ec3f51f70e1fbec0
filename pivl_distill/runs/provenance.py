"""Provenance: what runs and prompt banks record about the files, data and machine they come from.

Every value is JSON. A run pins its provenance when it starts, and resumes only with an equal one
(`contract.py`); a prompt bank keeps its own in the file's metadata.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pivl_distill
from pivl_distill.config import PromptSettings, StudentConfig, TeachConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.distributed import process_group
from pivl_distill.storage.files import sha256


def run_provenance(
    config: TeachConfig | StudentConfig, dataset: ReIDDataset, device: torch.device
) -> dict[str, Any]:
    """Return what every training run pins: its settings, training split and machine."""
    return {
        "config": config.model_dump(mode="json"),
        "data": dataset.metadata,
        "machine": machine_provenance(device),
    }


def machine_provenance(device: torch.device) -> dict[str, Any]:
    """Return what can change the last bits of a result without any change of settings."""
    return {
        "device": device.type,
        "processes": process_group.world_size(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pivl-distill": pivl_distill.__version__,
    }


def bank_provenance(
    clip_name: str,
    clip_sha256: str,
    prompts: PromptSettings,
    dataset: ReIDDataset,
    **details: Any,
) -> dict[str, Any]:
    """Return the provenance of a prompt bank that is created now.

    Args:
        clip_name: architecture of the CLIP whose text tower encoded the prompts.
        clip_sha256: hash of that CLIP's weights.
        prompts: templates and number of learned tokens.
        dataset: data set whose training split the texts were learned from.
        details: further JSON values, such as the seed.
    """
    return {
        "version": pivl_distill.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "clip": clip_name,
        "clip_sha256": clip_sha256,
        "prompts": prompts.model_dump(mode="json"),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        **details,
    }


def file_provenance(path: Path | None) -> dict[str, str] | None:
    """Return the absolute path and SHA-256 (hex) of a file; None for no file."""
    return None if path is None else {"file": str(path.resolve()), "sha256": sha256(path)}


def weights_provenance(pretrained: str) -> str:
    """Return the SHA-256 (hex) of a weight file, or the name itself ("timm", "none")."""
    path = Path(pretrained)
    return sha256(path) if path.is_file() else pretrained


def array_sha256(array: np.ndarray | None) -> str | None:
    """Return the SHA-256 (hex) of an array's bytes; None for no array."""
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()
