"""`pivl-distill teach`: tune prompts with CLIP, write the prompt bank, train the teacher."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import ClipSettings, HeadSettings, TeachConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20, Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.runs.provenance import bank_provenance
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import BANK_FILE, TEACHER_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.storage.tensors import is_foreign
from pivl_distill.storage.weights_file import read_state_dict
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.divergence import COLLAPSED_SPREAD
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from teachers.clip import Clip, with_weights_hash
from teachers.clip_loading import load_clip
from teachers.clip_reid_checkpoint import (
    is_clip_reid_state,
    load_clip_reid_checkpoint,
    take_token_table,
)
from teachers.embedding_file import list_extra_crops, save_embedding_file
from teachers.image_encoders import ViTOptions
from teachers.image_features import encode_crops
from teachers.probes import BankProbe, probe_bank
from teachers.prompts import IdentityPrompts
from teachers.quick_gelu import QUICKGELU_SUFFIX
from teachers.teacher import Teacher, save_teacher, vit_options
from teachers.tuning import encode_bank_texts, present_parts, tune_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeachReport:
    """Files, probes and retrieval results of a teach run."""

    run: Path
    bank: Path
    readout: BankProbe
    teacher: Path
    retrieval: RetrievalResult
    missing_maps: int
    seconds: dict[str, float]


def teach(config: TeachConfig, out: Path | None = None, resume: Path | None = None) -> TeachReport:
    """Run both stages of π-VL; leave a prompt bank and a teacher in a run folder.

    The folder is `out`, or the next free one in `runs/`; `resume` continues an unfinished run.
    """
    stage2 = Stage2Run.prepare("teach", config)  # its seed draws the random weights of a CLIP
    dataset, device = stage2.dataset, stage2.device
    vocabulary = part_vocabulary(config, dataset)
    unlabeled = list_extra_crops(config)
    clip = build_clip(config.clip, config.data.size_hw, dataset).freeze().to(device)
    with stage2.session(out, resume, clip=clip.weights_sha256) as run:
        store = stage2.load_crops(run, vocabulary)
        run.progress.start_stage("prompts")
        if "bank" not in run.progress.contract.values:
            bank = learn_bank(config, clip, store, dataset, vocabulary or LIP20, run)
            bank.save(run.path / BANK_FILE, config.bank_precision)
            process_group.barrier()
        bank = PromptBank.load(run.path / BANK_FILE)
        run.progress.contract.pin(bank=sha256(run.path / BANK_FILE))

        run.progress.start_stage("teacher")
        torch.manual_seed(config.seed)
        teacher = Teacher(clip, len(bank.pids), fusion_head_settings(config)).to(device)
        supervision = Supervision(texts=make_text_features(bank, config).to(device))

        def save(model: EmbeddingModel) -> None:
            save_teacher(model, run.path / TEACHER_FILE)
            if config.embedding_views:
                save_embedding_file(
                    config, model, teacher, store, [*dataset.train, *unlabeled], run
                )

        retrieval = stage2.train_and_evaluate(run, teacher, store, supervision, save)
        report = TeachReport(
            run=run.path,
            bank=run.path / BANK_FILE,
            readout=BankProbe(**bank.provenance["readout"]),
            teacher=run.path / TEACHER_FILE,
            retrieval=retrieval,
            missing_maps=store.missing_maps,
            seconds={stage: run.progress.seconds[stage] for stage in ("prompts", "teacher")},
        )
        run.finish(
            "teach",
            readout=dataclasses.asdict(report.readout),
            retrieval=retrieval.summary(),
            missing_maps=report.missing_maps,
            seconds=report.seconds,
        )
    return report


def learn_bank(
    config: TeachConfig,
    clip: Clip,
    store: CropStore,
    dataset: ReIDDataset,
    vocabulary: Vocabulary,
    run: Run,
) -> PromptBank:
    """Run stage 1 and return its bank, with its probe results in the provenance.

    Args:
        config: of `teach`.
        clip: frozen CLIP, on the device.
        store: the N training crops, with part maps if part prompts are learned.
        dataset: data set of the crops.
        vocabulary: labels of the part maps; columns of the bank's part texts.
        run: run folder, for metrics and progress.
    """
    pids, identity_of_crop = np.unique(store.pids, return_inverse=True)
    rows = torch.from_numpy(identity_of_crop)
    features = encode_crops(clip, store, vocabulary, config.tuning)
    learned = tune_prompts(
        clip, features, rows, vocabulary, config.prompts, config.tuning, config.seed, run
    )
    present = present_parts(features.parts, rows, len(pids), len(vocabulary))
    bank = make_bank(config, clip, learned, present, pids, vocabulary, dataset)
    crop_pids = torch.from_numpy(store.pids)
    readout = probe_bank(bank, clip.text, features.projected, crop_pids, dataset.people)
    bank.provenance["readout"] = dataclasses.asdict(readout)
    warn_of_equal_texts(readout)
    return bank


def warn_of_equal_texts(readout: BankProbe) -> None:
    """Log a warning if the identity texts of a bank have collapsed to one."""
    cosine = readout.identity_cosine
    if cosine is not None and cosine > 1 - COLLAPSED_SPREAD:
        logger.warning(
            f"The texts of all identities in the bank are nearly equal (mean cosine {cosine:.4f}),"
            " so that they tell nobody apart. Raise tuning.identity_epochs, or change"
            " tuning.learning_rate; look whether the images differ."
        )


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


def make_text_features(bank: PromptBank, config: TeachConfig) -> TextFeatures:
    """Return the text features for stage 2 of the teacher: one row of Table 3."""
    bank = bank.label_only() if config.supervision == "label" else bank
    return TextFeatures.from_bank(bank, config.stage2.loss, config.stage2.head)


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
    if config.supervision == "identity" and not config.tuning.part_epochs:
        return None
    if dataset.vocabulary is None:
        raise PivlError(
            f"{dataset.name} has no parsing maps, which part prompts are learned from. Create them"
            f" with `pivl-distill parse`, put them in {dataset.root / 'parsing'} or name their"
            " folder with --parsing; or train on identities alone with --set supervision=identity"
            " --set tuning.part_epochs=0."
        )
    return dataset.vocabulary


def make_bank(
    config: TeachConfig,
    clip: Clip,
    learned: IdentityPrompts,
    present: Tensor,
    pids: np.ndarray,
    vocabulary: Vocabulary,
    dataset: ReIDDataset,
) -> PromptBank:
    """Encode every text once and return the bank with its provenance.

    Args:
        config: of `teach`.
        clip: CLIP whose text encoder is used.
        learned: tuned prompts of the C identities.
        present: bool [C, P], whether an identity has a part on any crop.
        pids: int64 [C], the identity of each row.
        vocabulary: the P labels of the part maps.
        dataset: data set that the prompts were tuned on.
    """
    identity, part = encode_bank_texts(learned, present)
    words = vocabulary.prompt_words(config.prompts.part_words)
    with torch.no_grad():
        label = clip.text.encode([config.prompts.label.format(part=word) for word in words])
    return PromptBank(
        identity=identity.cpu(),
        part=part.cpu(),
        label=label.cpu(),
        present=present,
        pids=tuple(pids.tolist()),
        vocabulary=vocabulary,
        provenance=bank_provenance(
            clip.name,
            clip.weights_sha256,
            config.prompts,
            dataset,
            data=config.data.model_dump(mode="json", exclude={"crop_cache_gib"}),
            seed=config.seed,
        ),
        image_digests=frozenset(record.digest for record in dataset.train),
    )
