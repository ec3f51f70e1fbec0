"""`pivl-distill teach --dry-run`: build everything; train and write nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pivl_distill.config import TeachConfig
from pivl_distill.console import format_bytes
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.training.disk_room import FLOAT_BYTES
from pivl_distill.training.dry_run import (
    BYTES_PER_PARAMETER,
    DryRunReport,
    SavedTensorBytes,
    describe_data,
    describe_stage2_run,
    measure_seconds,
    note_random_weights,
    random_bank,
)
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from teachers.clip import Clip
from teachers.image_features import STORED_DTYPE, encode_crops, encoding_dtype
from teachers.inputs import fusion_head_settings, prepare_inputs, without_download
from teachers.prompts import IdentityPrompts
from teachers.stage1_losses import prompt_losses, resolve_temperature
from teachers.teach import make_text_features
from teachers.teacher import Teacher
from teachers.tuning import make_sampler


def dry_run_teach(config: TeachConfig, out: Path | None = None) -> DryRunReport:
    """Build CLIP, prompts and teacher; report their sizes and whether they fit together.

    `out` is where the run would be written. Reads one batch of crops and maps and downloads
    nothing: weights that are not on this machine are replaced by random ones. Runs one step of each
    stage, except on the meta device.
    """
    clip_settings = without_download(config.clip)
    if clip_settings != config.clip:
        note_random_weights(f"'{config.clip.weights}'")
    config = config.model_copy(update={"clip": clip_settings})
    stage2 = Stage2Run.prepare("teach", config, out, dry_run=True)
    dataset, device, inputs = stage2.dataset, stage2.device, prepare_inputs(config, stage2)
    clip, prompts, vocabulary = inputs.clip, inputs.prompts, inputs.vocabulary
    bank_vocabulary = inputs.bank_vocabulary
    rows = describe_data(dataset, config.data, maps=vocabulary is not None)
    rows |= describe_stage1(config, clip, prompts, stage2.pids, len(bank_vocabulary))
    store, _ = stage2.load_first_batch(vocabulary)
    if device.type != "meta":
        rows |= describe_stage1_step(config, clip, prompts, store, bank_vocabulary)
    bank = random_bank(dataset.train_pids, clip.image.dim, bank_vocabulary)
    supervision = Supervision(texts=make_text_features(bank, config).to(device))
    teacher = Teacher(clip, len(dataset.train_pids), fusion_head_settings(config)).to(device)
    rows |= describe_stage2_run(stage2, teacher, store, supervision)
    return DryRunReport(f"Would teach {clip.name}", rows)


def describe_stage1(
    config: TeachConfig, clip: Clip, prompts: IdentityPrompts, pids: np.ndarray, parts: int
) -> dict[str, object]:
    """Return rows about encoders, prompts, steps, grid, and memory of features and bank.

    Args:
        config: of `teach`.
        clip: CLIP, on its device.
        prompts: of all identities.
        pids: int64 [N], the identity of each training crop.
        parts: number of parts of the vocabulary.
    """
    tuning, (rows, columns), dim = config.tuning, clip.image.grid_hw, clip.image.dim
    image, text = (sum(p.numel() for p in m.parameters()) for m in (clip.image, clip.text))
    longest, context = prompts.longest, clip.text.context_length
    epochs = tuning.identity_epochs + tuning.part_epochs
    per_epoch = make_sampler(pids, tuning, config.seed).per_epoch()
    cells = rows * columns if tuning.part_epochs else 0
    identities = len(np.unique(pids))
    texts = identities + parts + identities * parts
    width = FLOAT_BYTES if config.bank_precision == "float32" else FLOAT_BYTES // 2
    return {
        "CLIP": f"{clip.name}, {image:,} parameters in the image encoder,"
        f" {text:,} in the text encoder",
        "stage 1: learned": f"{prompts.tokens.numel():,} parameters of {identities:,} identities",
        "stage 1: prompts": f"{longest} of {context} tokens in the longest",
        "stage 1: steps": f"{per_epoch[0]:,} in the first of {epochs} epochs,"
        f" {sum(per_epoch):,} in all",
        "stage 1: grid": f"{rows}×{columns} cells of {dim} dimensions",
        "stage 1: features": format_bytes(len(pids) * (1 + cells) * dim * STORED_DTYPE.itemsize)
        + f", computed in {encoding_precision(config, clip)}",
        "stage 1: memory": f"at least {format_bytes((image + text) * FLOAT_BYTES)} of frozen"
        f" weights and {format_bytes(prompts.tokens.numel() * BYTES_PER_PARAMETER)} of tokens,"
        " gradients and moments",
        "prompt bank": f"at most {format_bytes(texts * dim * width)}",
    }


def encoding_precision(config: TeachConfig, clip: Clip) -> str:
    """Return the number format of the image encoder on its device."""
    half = encoding_dtype(config.tuning.precision, clip.text.positional_embedding.device)
    return str(half or torch.float32).removeprefix("torch.")


def describe_stage1_step(
    config: TeachConfig,
    clip: Clip,
    prompts: IdentityPrompts,
    store: CropStore,
    vocabulary: Vocabulary,
) -> dict[str, object]:
    """Encode the crops of `store` twice, run two steps of the last epoch; return time and memory.

    Args:
        config: of `teach`.
        clip: CLIP, on its device.
        prompts: of all identities; changed by the steps.
        store: crops and maps of the first batch.
        vocabulary: labels of the maps.
    """
    device = prompts.tokens.device
    tuning = config.tuning.model_copy(update={"feature_cache_gib": 0})  # nothing is written
    tuning = resolve_temperature(tuning, clip)
    rows = torch.from_numpy(np.unique(store.pids, return_inverse=True)[1])
    features = encode_crops(clip, store, vocabulary, tuning)
    encoding_s = measure_seconds(lambda: encode_crops(clip, store, vocabulary, tuning), device)
    last = tuning.identity_epochs + tuning.part_epochs - 1
    batch = np.arange(len(store))

    def loss() -> Tensor:
        losses = prompt_losses(prompts, features, rows, batch, tuning, vocabulary, last)
        return torch.stack(list(losses.values())).sum()

    saved = SavedTensorBytes(nn.ModuleList([prompts, clip.text]))
    with saved.recording():
        total = loss()
    total.backward()
    seconds = measure_seconds(lambda: loss().backward(), device)
    return {
        "stage 1: activations": f"at least {format_bytes(saved.bytes)} of a batch of"
        f" {len(store)} crops",
        "stage 1: encoding": f"{len(store) / encoding_s:,.3g} crops/s on this {device.type}",
        "stage 1: time": f"{seconds:.3g} s a step on this {device.type}",
    }
