"""`pivl-distill teach`: tune prompts with CLIP, write the prompt bank, train the teacher."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import TeachConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.runs.callbacks import Callback
from pivl_distill.runs.provenance import bank_provenance
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import BANK_FILE, TEACHER_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.storage.mapped_files import check_unchanged
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.divergence import COLLAPSED_SPREAD
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from teachers.clip import Clip
from teachers.embedding_file import save_embedding_file
from teachers.image_features import encode_crops
from teachers.inputs import fusion_head_settings, prepare_inputs
from teachers.probes import BankProbe, probe_bank
from teachers.prompts import IdentityPrompts
from teachers.teacher import Teacher, save_teacher
from teachers.tuning import encode_bank_texts, present_parts, tune_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeachReport:
    """Files, probes and retrieval results of a teach run."""

    run: Path
    bank: Path
    readout: BankProbe
    teacher: Path
    retrieval: RetrievalResult | None
    """None without evaluation."""
    missing_maps: int
    seconds: dict[str, float]


def teach(
    config: TeachConfig,
    out: Path | None = None,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TeachReport:
    """Run both stages of π-VL; leave a prompt bank and a teacher in a run folder.

    The folder is `out`, or the next free one in `runs/`; `resume` continues an unfinished run.
    `callbacks` are called during the run.
    """
    # Its seed draws the weights of a CLIP.
    stage2 = Stage2Run.prepare("teach", config, out, resume, callbacks=callbacks)
    dataset, inputs = stage2.dataset, prepare_inputs(config, stage2)
    clip, vocabulary, provenance = inputs.clip, inputs.vocabulary, inputs.provenance
    stage2.refuse_changes(**provenance)
    store, unlabeled = stage2.load_crops(vocabulary), stage2.load_unlabeled(inputs.unlabeled)
    with stage2.session(store, **provenance) as run:
        run.progress.start_stage("prompts")
        if "bank" not in run.progress.contract.values:
            bank = learn_bank(config, clip, store, dataset, inputs.bank_vocabulary, run)
            bank.save(run.path / BANK_FILE, config.bank_precision)
            process_group.barrier()
        bank = PromptBank.load(run.path / BANK_FILE)
        run.progress.contract.pin(bank=sha256(run.path / BANK_FILE))

        run.progress.start_stage("teacher")
        torch.manual_seed(config.seed)
        teacher = Teacher(clip, len(bank.pids), fusion_head_settings(config)).to(stage2.device)
        supervision = Supervision(texts=make_text_features(bank, config).to(stage2.device))

        def save(model: EmbeddingModel) -> None:
            save_teacher(model, run.path / TEACHER_FILE)
            if config.embedding_views:
                every = store if unlabeled is None else store.concatenated(unlabeled)
                records = [*dataset.train, *inputs.unlabeled]
                save_embedding_file(config, model, teacher, every, records, run)

        retrieval = stage2.train_and_evaluate(run, teacher, store, supervision, save)
        return finish_run(run, bank, retrieval, store.missing_maps)


def finish_run(
    run: Run, bank: PromptBank, retrieval: RetrievalResult | None, missing_maps: int
) -> TeachReport:
    """Mark the run complete, and return its report."""
    report = TeachReport(
        run=run.path,
        bank=run.path / BANK_FILE,
        readout=BankProbe(**bank.provenance["readout"]),
        teacher=run.path / TEACHER_FILE,
        retrieval=retrieval,
        missing_maps=missing_maps,
        seconds={stage: run.progress.seconds[stage] for stage in ("prompts", "teacher")},
    )
    run.finish(
        "teach",
        readout=dataclasses.asdict(report.readout),
        retrieval=None if retrieval is None else retrieval.summary(),
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

    Raises: PivlError if crops or features in the cache changed meanwhile.
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
    check_unchanged()
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


def make_text_features(bank: PromptBank, config: TeachConfig) -> TextFeatures:
    """Return the text features for stage 2 of the teacher: one row of Table 3."""
    bank = bank.label_only() if config.supervision == "label" else bank
    return TextFeatures.from_bank(bank, config.stage2.loss, config.stage2.head)


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
            data=config.data.model_dump(mode="json", exclude={"crop_cache_gib", "evaluation"}),
            seed=config.seed,
        ),
        image_digests=frozenset(record.digest for record in dataset.train),
    )
