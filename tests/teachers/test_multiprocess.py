"""Stage 1 of two and four processes equals that of one; the processes run this file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pivl_distill.config import PromptSettings, TuningSettings
from pivl_distill.data.batches import DeviceArray
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import all_reduce_gradients
from pivl_distill.runs.run import Run
from teachers.clip import Clip, with_weights_hash
from teachers.image_features import ImageFeatures, encode_crops
from teachers.prompts import IdentityPrompts
from teachers.stage1_losses import prompt_losses
from teachers.text_encoder import used_token_ids
from teachers.tiny_clip import build_tiny_clip
from teachers.tuning import encode_bank_texts, tune_prompts

PEOPLE, CROPS = 5, 67
"""More crops than an encoding batch of 64."""

SETTINGS = TuningSettings(
    identity_epochs=1,
    part_epochs=1,
    identities_per_batch=3,
    crops_per_identity=2,
    part_normalize=False,
)
PROMPTS = PromptSettings(learned_tokens=2)


def tiny_clip() -> Clip:
    torch.manual_seed(0)
    words = used_token_ids(["a photo of the X person, wearing .", *LIP20.words])
    return with_weights_hash(build_tiny_clip("tiny_rn", words).freeze())


def crop_store() -> CropStore:
    rng = np.random.default_rng(0)
    size_hw = (128, 64)
    return CropStore(
        crops=rng.integers(0, 256, (CROPS, *size_hw, 3), dtype=np.uint8),
        maps=rng.integers(0, 4, (CROPS, *size_hw), dtype=np.uint8).repeat(1, axis=0),
        pids=np.arange(CROPS) % PEOPLE,
        camids=None,
    )


def learned_prompts(clip: Clip) -> IdentityPrompts:
    generator = torch.Generator().manual_seed(0)
    return IdentityPrompts(clip.text, PROMPTS, PEOPLE, LIP20, generator)


def encoded(gib: float) -> ImageFeatures:
    settings = SETTINGS.model_copy(update={"feature_cache_gib": gib})
    return encode_crops(tiny_clip(), crop_store(), LIP20, settings)


def gradients(kind: str, rows: Tensor, batch: np.ndarray) -> dict[str, Tensor]:
    """Return one step's losses and token gradients, in double precision."""
    clip = tiny_clip()
    clip.text.double()
    generator = torch.Generator().manual_seed(1)
    numbers = {"generator": generator, "dtype": torch.float64}
    parts = torch.randint(0, 6, (CROPS, 8), generator=generator)
    parts = parts.where(parts < 5, IGNORE if kind == "some parts" else 0)
    if kind == "no parts":
        parts.fill_(IGNORE)
    dim = clip.image.dim
    projected, cells = torch.randn(CROPS, dim, **numbers), torch.randn(CROPS, 8, dim, **numbers)
    features = ImageFeatures(projected, DeviceArray(cells.numpy(), projected.device), parts)
    learned = learned_prompts(clip).double()
    losses = prompt_losses(learned, features, rows, batch, SETTINGS, LIP20, epoch=1)
    torch.stack(list(losses.values())).sum().backward()
    all_reduce_gradients(learned.parameters())
    assert learned.tokens.grad is not None
    return {**losses, "gradient": learned.tokens.grad}


def results(folder: Path) -> dict[str, Tensor]:
    """Return all tensors that must not depend on the number of processes."""
    rows = torch.arange(CROPS) % PEOPLE
    values = {}
    for kind in ("some parts", "no parts"):
        for batch in ([0, 5, 1, 6, 2, 7], [3]):  # [3]: fewer prompts than processes
            step = gradients(kind, rows, np.array(batch))
            values |= {f"{kind} of {len(batch)}: {name}": value for name, value in step.items()}
    for gib in (0, 1, 1):  # in memory; cache miss; cache hit
        features = encoded(gib)
        values |= {"projected": features.projected, "cells": features.cells.values}
    clip, run = (
        tiny_clip(),
        Run.create("teach", "", folder / f"run of {process_group.world_size()}"),
    )
    learned = tune_prompts(clip, features, rows, LIP20, PROMPTS, SETTINGS, 0, run)
    identity, part = encode_bank_texts(learned, torch.ones(PEOPLE, len(LIP20), dtype=torch.bool))
    values |= {"tokens": learned.tokens, "identity": identity, "part": part}
    return {name: value.detach().clone() for name, value in values.items()}


@pytest.mark.parametrize("size", [2, 4])
def test_prompts_equal_those_of_one_process(launch, size, tmp_path, monkeypatch):
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "several"))
    processes = launch(size, __file__, tmp_path)
    assert [process.code for process in processes] == [0] * size, processes
    assert all(process.output == "" for process in processes[1:])
    several_processes = load_file(tmp_path / "results.safetensors")
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "one"))
    single_process = results(tmp_path)
    assert several_processes.keys() == single_process.keys()
    for name, value in single_process.items():
        tolerance = {torch.float64: 1e-9, torch.float16: 2e-3}.get(value.dtype, 1e-4)
        torch.testing.assert_close(
            several_processes[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    for folder in ("several", "one"):
        assert len(list((tmp_path / folder / "features").iterdir())) == 1
    metrics = [tmp_path / f"run of {n}" / "metrics.jsonl" for n in (1, size)]
    assert [len(path.read_text().splitlines()) for path in metrics] == [2, 2]
    assert single_process["some parts of 6: gradient"].abs().max() > 1e-6
    assert not several_processes["no parts of 1: part"]


def main(folder: Path) -> None:
    with process_group.session():
        values = results(folder)
        if not process_group.rank():
            save_file(values, folder / "results.safetensors")
    process_group.exit_process(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
