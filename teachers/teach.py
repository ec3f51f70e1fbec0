"""`pivl-distill teach`: CLIP → prompts → bank → teacher, one function after the other."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pivl_distill
from pivl_distill.bank import PromptBank
from pivl_distill.config import ClipSettings, TeachConfig, dump_config
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.evaluation import TestCrops, evaluate_model, pick_device
from pivl_distill.files import sha256
from pivl_distill.resume import machine
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.runs import Run
from pivl_distill.training import Texts, train
from teachers.clip import Clip, load_clip
from teachers.features import FrozenFeatures, encode_crops
from teachers.gauge import BankReadout, read_bank
from teachers.prompts import IdentityPrompts
from teachers.teacher import Teacher, save_teacher
from teachers.towers import ViTOptions
from teachers.tuning import bank_texts, present_parts, tune_prompts

BANK_FILE = "prompt_bank.safetensors"
TEACHER_FILE = "teacher.safetensors"


@dataclass(frozen=True)
class TeachReport:
    """What a teach run made and how good it is."""

    run: Path
    bank: Path
    readout: BankReadout
    teacher: Path
    retrieval: RetrievalResult
    missing_maps: int
    seconds: dict[str, float]


def teach(config: TeachConfig, out: Path | None = None, resume: Path | None = None) -> TeachReport:
    """Run both stages of π-VL and leave a bank and a teacher in a run folder.

    The folder is `out`, or the next in `runs/`; or `resume`, an unfinished run that is continued.
    """
    torch.manual_seed(config.seed)  # of camera vectors, and of a CLIP without weights
    dataset = load_dataset(config.data.spec, config.data.parsing)
    vocabulary = require_maps(dataset)
    device = pick_device(config.device)
    options = vit_options_of(config.clip, dataset)
    clip = load_clip(config.clip.name, config.clip.weights, config.data.size_hw, options)
    clip.freeze().to(device)
    if resume is None:
        run = Run.create("teach", dump_config(config, "teach"), out)
    else:
        run = Run.unfinished("teach", resume)
    with run.progress.session(
        "teach",
        config=config.model_dump(mode="json"),
        data=dataset.facts,
        clip=clip.weights_sha256,
        machine=machine(device),
    ):
        store = CropStore.load(dataset.train, config.data.size_hw, vocabulary)
        run.progress.enter("prompts")
        if "bank" not in run.progress.contract:
            learn_bank(clip, store, vocabulary, config, dataset, run).save(run.path / BANK_FILE)
        bank = PromptBank.load(run.path / BANK_FILE)
        run.progress.pin(bank=sha256(run.path / BANK_FILE))

        run.progress.enter("teacher")
        torch.manual_seed(config.seed)
        teacher = Teacher(clip, len(bank.pids), config.stage2.head).to(device)
        texts = Texts.of(bank, config.stage2.loss.text_scale).to(device)
        train(teacher, store, texts, config.stage2, config.seed, run, "Training the teacher")
        model = teacher.embedding_model()
        save_teacher(model, run.path / TEACHER_FILE)
        run.progress.enter("evaluation")
        retrieval = evaluate_model(model, TestCrops.load(dataset, config.data.size_hw))
        seconds = {stage: run.progress.seconds[stage] for stage in ("prompts", "teacher")}
        readout = BankReadout(**bank.provenance["readout"])
        run.finish(
            "teach",
            readout=dataclasses.asdict(readout),
            retrieval=retrieval.summary(),
            missing_maps=store.missing_maps,
            seconds=seconds,
        )
    return TeachReport(
        run=run.path,
        bank=run.path / BANK_FILE,
        readout=readout,
        teacher=run.path / TEACHER_FILE,
        retrieval=retrieval,
        missing_maps=store.missing_maps,
        seconds=seconds,
    )


def learn_bank(
    clip: Clip,
    store: CropStore,
    vocabulary: Vocabulary,
    config: TeachConfig,
    dataset: ReIDDataset,
    run: Run,
) -> PromptBank:
    """Stage 1, and what the bank then says."""
    pids, row_of_crop = np.unique(store.pids, return_inverse=True)
    rows = torch.from_numpy(row_of_crop).to(clip.text.positional_embedding.device)
    features = encode_crops(clip, store, vocabulary, config.tuning.feature_cache_gib)
    learned = tune_prompts(
        clip, features, rows, vocabulary, config.prompts, config.tuning, config.seed, run
    )
    bank = make_bank(clip, learned, features, rows, pids, vocabulary, config, dataset)
    owners = torch.from_numpy(store.pids)
    readout = read_bank(bank, clip.text, features.projected, owners, dataset.people)
    bank.provenance["readout"] = dataclasses.asdict(readout)
    return bank


def vit_options_of(settings: ClipSettings, dataset: ReIDDataset) -> ViTOptions:
    """Overlapping patches, and a vector for each camera of the data set, as the settings ask."""
    if not settings.sie_coefficient:
        return ViTOptions(settings.stride_px)
    if not dataset.has_cameras:
        raise PivlError(
            f"{dataset.name} does not say which camera took a crop, so there is nothing to learn"
            " camera vectors from; set clip.sie_coefficient to 0."
        )
    return ViTOptions(settings.stride_px, dataset.cameras, settings.sie_coefficient)


def require_maps(dataset: ReIDDataset) -> Vocabulary:
    """The vocabulary of the data set's maps; PivlError when it has none."""
    if dataset.vocabulary is None:
        raise PivlError(
            f"{dataset.name} has no parsing maps, which part prompts are learned from. Make them"
            f" with `pivl-distill parse`, and put them in {dataset.root / 'parsing'} or name their"
            " folder with --parsing."
        )
    return dataset.vocabulary


def make_bank(
    clip: Clip,
    learned: IdentityPrompts,
    features: FrozenFeatures,
    rows: Tensor,
    pids: np.ndarray,
    vocabulary: Vocabulary,
    config: TeachConfig,
    dataset: ReIDDataset,
) -> PromptBank:
    """Encode every text once and say where it all came from."""
    identity, part = bank_texts(learned, len(pids), len(vocabulary))
    with torch.inference_mode():
        label = clip.text.encode([config.prompts.label.format(part=w) for w in vocabulary.words])
    return PromptBank(
        identity=identity.cpu(),
        part=part.cpu(),
        label=label.cpu(),
        present=present_parts(features.parts, rows, len(pids), len(vocabulary)),
        pids=tuple(pids.tolist()),
        vocabulary=vocabulary,
        provenance=provenance(clip, config, dataset),
        images=frozenset(record.digest for record in dataset.train),
    )


def provenance(clip: Clip, config: TeachConfig, dataset: ReIDDataset) -> dict[str, Any]:
    """Where a bank's texts come from, as JSON values."""
    return {
        "version": pivl_distill.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "clip": clip.name,
        "clip_sha256": clip.weights_sha256,
        "prompts": config.prompts.model_dump(mode="json"),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "data": config.data.model_dump(mode="json"),
        "seed": config.seed,
    }
