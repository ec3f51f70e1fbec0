"""What a teacher is trained from: loaded, and checked before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pivl_distill.config import ClipSettings, HeadSettings, TeachConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import LIP20, Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import is_foreign
from pivl_distill.storage.weights_file import read_state_dict
from pivl_distill.training.disk_room import (
    COPIES,
    FLOAT_BYTES,
    MOMENTS,
    CacheEntry,
    training_bytes,
)
from pivl_distill.training.dry_run import building_on
from pivl_distill.training.preflight import check_batch_norm, check_batches, check_images
from pivl_distill.training.stage2_run import Stage2Run
from teachers.clip import Clip, with_weights_hash
from teachers.clip_loading import load_clip
from teachers.clip_reid_checkpoint import (
    is_clip_reid_state,
    load_clip_reid_checkpoint,
    take_token_table,
)
from teachers.embedding_file import list_extra_crops
from teachers.image_encoders import ViTOptions
from teachers.image_features import STORED_DTYPE
from teachers.open_clip_models import architecture_name, is_pretrained_tag
from teachers.prompts import IdentityPrompts
from teachers.quick_gelu import QUICKGELU_SUFFIX
from teachers.teacher import Teacher, vit_options


@dataclass(frozen=True)
class TeachInputs:
    """The frozen CLIP on the device, the prompts before tuning, and what they are trained on."""

    clip: Clip
    prompts: IdentityPrompts
    vocabulary: Vocabulary | None
    """The parts of the maps; None if part prompts are not learned."""
    unlabeled: list[Record]

    @property
    def provenance(self) -> dict[str, Any]:
        """What identifies the inputs, as JSON values."""
        return {"clip": self.clip.weights_sha256}

    @property
    def bank_vocabulary(self) -> Vocabulary:
        """The parts of the bank."""
        return self.vocabulary or LIP20


def prepare_inputs(config: TeachConfig, stage2: Stage2Run) -> TeachInputs:
    """Load CLIP, and check that data, prompts and networks fit and can be written.

    Weights are downloaded only if no problem was found.

    Raises: PivlError that lists all problems of the run.
    """
    problems, dataset, device = stage2.problems, stage2.dataset, stage2.device
    vocabulary = problems.attempt(part_vocabulary, config, dataset)
    unlabeled = problems.attempt(list_extra_crops, config) or []
    check_images({"unlabelled": unlabeled}, dataset.root, problems)
    shuffled = config.tuning.batches == "shuffle"
    check_batches("tuning", config.tuning, stage2.pids, problems, shuffled=shuffled)
    settings = without_download(config.clip) if problems.found else config.clip
    with building_on(device, random_weights=settings.weights == "none"):
        clip = problems.attempt(build_clip, settings, config.data.size_hw, dataset)
    if clip is None:
        raise problems.error()
    clip = clip.freeze().to(device)
    problems.attempt(
        check_batch_norm,
        clip.image,
        clip.size_hw,
        config.stage2,
        device,
        vit_options(clip.image).cameras,
    )
    prompts = problems.attempt(make_prompts, config, clip, dataset, vocabulary or LIP20)
    if prompts is not None:
        images = (len(dataset.train), len(unlabeled))
        run_bytes = _run_bytes(config, clip, prompts, len(vocabulary or LIP20), sum(images))
        stage2.check_room(run_bytes, _cache_entries(config, clip, images[0]))
    if prompts is None or problems.found:
        raise problems.error()
    return TeachInputs(clip, prompts, vocabulary, unlabeled)


def make_prompts(
    config: TeachConfig, clip: Clip, dataset: ReIDDataset, vocabulary: Vocabulary
) -> IdentityPrompts:
    """Return the prompts of all identities before their tuning, on the device of `clip`.

    Raises PivlError if a prompt is too long for the text encoder.
    """
    identities, generator = len(dataset.train_pids), torch.Generator().manual_seed(config.seed)
    prompts = IdentityPrompts(clip.text, config.prompts, identities, vocabulary, generator)
    return prompts.to(clip.text.positional_embedding.device)


def without_download(settings: ClipSettings) -> ClipSettings:
    """Return settings of the same architecture, with random weights in place of a download."""
    if not is_pretrained_tag(settings.name, settings.weights):
        return settings
    name = architecture_name(settings.name, settings.weights)
    return settings.model_copy(update={"name": name, "weights": "none"})


def _run_bytes(
    config: TeachConfig, clip: Clip, prompts: IdentityPrompts, parts: int, images: int
) -> int:
    """Return the size of all files of a run: progress, bank, teacher and embeddings.

    Args:
        config: of `teach`.
        clip: its image encoder is trained; it is left frozen.
        prompts: of the C identities.
        parts: P, of the bank.
        images: whose embeddings are written.
    """
    identities, dim = len(prompts.tokens), clip.image.dim
    with torch.device("meta"):
        teacher = Teacher(clip, identities, fusion_head_settings(config))
    stage2 = training_bytes(teacher, config.stage2)
    clip.freeze()
    stage1 = COPIES * (1 + MOMENTS) * FLOAT_BYTES * prompts.tokens.numel()
    bank = FLOAT_BYTES * dim * (identities + parts + identities * parts)
    embeddings = images * config.embedding_views * (clip.image.feature_dim + dim)
    return max(stage1, stage2) + bank + embeddings * STORED_DTYPE.itemsize


def _cache_entries(config: TeachConfig, clip: Clip, images: int) -> list[CacheEntry]:
    """Return the features of CLIP that stage 1 adds to the cache."""
    size = images * clip.image.dim * STORED_DTYPE.itemsize
    cells = math.prod(clip.image.grid_hw) if config.tuning.part_epochs else 0
    sizes = [size, size * cells]
    fits = sum(sizes) <= config.tuning.feature_cache_gib * 2**30
    return [CacheEntry("features", size) for size in sizes if size and fits]


def build_clip(settings: ClipSettings, size_hw: tuple[int, int], dataset: ReIDDataset) -> Clip:
    """Load the CLIP of the settings, or the encoders of a CLIP-ReID checkpoint."""
    options = make_vit_options(settings, dataset)
    path = Path(settings.weights)
    if path.is_file() and is_foreign(path) and is_clip_reid_state(read_state_dict(path)):
        clip = load_clip_reid(settings, size_hw, options)
    else:
        clip = load_clip(settings.name, settings.weights, size_hw, options, settings.activation)
    return clip.with_clip_pixels() if settings.pixels == "clip" else clip


def load_clip_reid(settings: ClipSettings, size_hw: tuple[int, int], options: ViTOptions) -> Clip:
    """Load the encoders of a CLIP-ReID checkpoint, with the token table of the CLIP `base`.

    Raises PivlError if the settings name another architecture, crop size, stride or number of
    cameras than the checkpoint has.
    """
    checkpoint = load_clip_reid_checkpoint(Path(settings.weights), options.sie_coefficient)
    clip = checkpoint.clip
    found = (clip.name.removesuffix(QUICKGELU_SUFFIX), clip.size_hw, vit_options(clip.image))
    expected = (settings.name.removesuffix(QUICKGELU_SUFFIX), size_hw, options)
    if found != expected:
        raise PivlError(
            f"'{settings.weights}' holds {_describe(*found)}, not {_describe(*expected)}; set"
            " clip.name, data.size_hw, clip.stride_px and clip.sie_coefficient accordingly."
        )
    take_token_table(checkpoint, settings.base)
    return with_weights_hash(clip)


def _describe(name: str, size_hw: tuple[int, int], options: ViTOptions) -> str:
    cameras = f"{options.cameras} camera embeddings" if options.cameras else "no camera embeddings"
    stride = f"stride {options.stride}" if options.stride else "patches side by side"
    return f"{name} for crops of {size_hw[0]}×{size_hw[1]} with {stride} and {cameras}"


def fusion_head_settings(config: TeachConfig) -> HeadSettings | None:
    """Return the settings of the fusion head; None if only identity texts are used."""
    return None if config.supervision == "identity" else config.stage2.head


def make_vit_options(settings: ClipSettings, dataset: ReIDDataset) -> ViTOptions:
    """Return stride and camera embeddings of the image encoder, from settings and data set."""
    if not settings.sie_coefficient:
        return ViTOptions(settings.stride_px)
    if not dataset.has_cameras:
        raise PivlError(
            f"{dataset.name} does not say which camera took a crop, so camera embeddings cannot be"
            " trained; set clip.sie_coefficient to 0."
        )
    return ViTOptions(settings.stride_px, dataset.cameras, settings.sie_coefficient)


def part_vocabulary(config: TeachConfig, dataset: ReIDDataset) -> Vocabulary | None:
    """Return the vocabulary of the data set's part maps, or None if part prompts are not learned.

    Raises PivlError if part prompts are learned but the data set has no part maps.
    """
    if not config.uses_maps:
        return None
    if dataset.vocabulary is None:
        raise PivlError(
            f"{dataset.name} has no parsing maps, which part prompts are learned from. Create them"
            f" with `pivl-distill parse`, put them in {dataset.root / 'parsing'} or name their"
            " folder with --parsing; or train on identities alone with --set supervision=identity"
            " --set tuning.part_epochs=0."
        )
    return dataset.vocabulary
