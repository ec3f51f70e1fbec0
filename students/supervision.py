"""What supervises a student: the texts of a bank and the embeddings of a teacher, as targets."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError, Problems
from pivl_distill.foreign import NETWORK_SUFFIXES, load_foreign, load_preprocessing
from pivl_distill.storage.filenames import TEACHER_EMBEDDINGS_FILE
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.distillation import TeacherTargets
from pivl_distill.training.dry_run import random_bank
from pivl_distill.training.part_classification import PartTexts
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import (
    MissingEmbeddingsError,
    TeacherEmbeddings,
    embed_views,
    load_embeddings,
)

logger = logging.getLogger(__name__)


def make_supervision(
    config: StudentConfig,
    bank: PromptBank | None,
    teacher: TeacherEmbeddings | None,
    pids: np.ndarray,
    device: torch.device,
) -> Supervision:
    """Return the targets of the losses on the training device.

    Args:
        config: of `student`.
        bank: texts in the order of the class labels, or None.
        teacher: embeddings of the N crops, or None.
        pids: int64 [N], the identity of each crop; negative for unlabelled crops.
        device: where to train.
    """
    texts = part_texts = targets = None
    if bank is not None:
        texts = TextFeatures.from_bank(bank, config.stage2.loss, config.stage2.head).to(device)
        if config.classifies_parts:
            part_texts = PartTexts.from_bank(bank, config.part_classification).to(device)
    if teacher is not None:
        labels = np.full(len(pids), -1)
        labels[pids >= 0] = np.unique(pids[pids >= 0], return_inverse=True)[1]
        targets = TeacherTargets.prepare(
            teacher.to(device),
            config.distill,
            torch.from_numpy(labels).to(device),
            None if bank is None else bank.identity.to(device),
        )
    return Supervision(texts, part_texts, targets)


def load_teacher(
    config: StudentConfig,
    bank_file: Path | None,
    dataset: ReIDDataset,
    records: list[Record],
    resume: Path | None = None,
    *,
    embed: bool = True,
) -> TeacherEmbeddings | None:
    """Return the teacher's embeddings of `records`, or None if no term uses them.

    Args:
        config: names the file of embeddings, or a network that computes them.
        bank_file: by default the embeddings are next to it.
        dataset: its training identities are the classes.
        records: the training crops, then the unlabelled ones.
        resume: run folder that has the embeddings of a network already, or None.
        embed: whether a network computes embeddings; False only opens it, and returns None.

    Raises: PivlError if the named file is missing, or lacks an image. If the file next to the bank
        lacks one, a warning is logged instead.
    """
    if not config.distill.active or config.teacher == "none":
        return None
    path = find_teacher(config, bank_file, resume)
    if path is None:
        return None
    if path.suffix in NETWORK_SUFFIXES:
        if embed:
            return embed_by_network(config, path, records)
        load_foreign(path, load_preprocessing(config.teacher_preset))
        return None
    try:
        return load_embeddings(path, records).select_classes(dataset.train_pids)
    except MissingEmbeddingsError as error:
        if config.teacher != "auto":
            raise
        logger.warning(f"{error} The student learns from the texts alone.")
        return None


def find_teacher(config: StudentConfig, bank_file: Path | None, resume: Path | None) -> Path | None:
    """Return the file of embeddings or the network; None, with a warning, if there is none.

    Raises PivlError if `config.teacher` names a file that does not exist.
    """
    if resume is not None and (resume / TEACHER_EMBEDDINGS_FILE).is_file():
        return resume / TEACHER_EMBEDDINGS_FILE
    if config.teacher != "auto":
        named = Path(config.teacher)
        path = named / TEACHER_EMBEDDINGS_FILE if named.is_dir() else named
        if not path.is_file():
            raise PivlError(
                f"No teacher at {path}; name a run that has {TEACHER_EMBEDDINGS_FILE}, such a file,"
                " a network (.onnx, .xml), or none."
            )
        return path
    if bank_file is None:
        return None
    path = bank_file.parent / TEACHER_EMBEDDINGS_FILE
    if path.is_file():
        return path
    logger.warning(
        f"There are no teacher embeddings at {path}, so the student learns from the texts alone."
        " Run `pivl-distill teach` again, or name a teacher with --teacher."
    )
    return None


def embed_by_network(config: StudentConfig, path: Path, records: list[Record]) -> TeacherEmbeddings:
    """Return the embeddings of `records` by a ReID network in a file, in `distill.views` views."""
    network = load_foreign(path, load_preprocessing(config.teacher_preset))
    size_hw, data = network.model.size_hw, config.data
    store = CropStore.load(records, size_hw, what="crops", cache_gib=data.crop_cache_gib)
    pad_px = round(config.stage2.augment.pad_px * size_hw[0] / data.size_hw[0])
    return embed_views(network.model, store, config.distill.views, pad_px, network.forward)


def warn_of_unused(config: StudentConfig, teacher: TeacherEmbeddings | None) -> None:
    """Log a warning about each given setting of distillation that has no effect."""
    distill, why = config.distill, "there are no teacher embeddings"
    if not distill.active:
        why = "every weight in distill is 0"
        if config.teacher not in ("auto", "none"):
            logger.warning(f"The teacher {config.teacher} is not used: {why}.")
    if teacher is None and distill.start_epochs:
        logger.warning(f"distill.start_epochs is not used: {why}.")
    if config.data.unlabeled is not None and (teacher is None or not distill.start_epochs):
        why = why if teacher is None else "distill.start_epochs is 0"
        logger.warning(f"The crops in {config.data.unlabeled} are not used: {why}.")


def load_bank(config: StudentConfig, bank_file: Path, dataset: ReIDDataset) -> PromptBank:
    """Load a bank and select what the supervision uses.

    Raises PivlError that lists what does not fit: identities, images, part texts, vocabulary.
    """
    whole, problems = PromptBank.load(bank_file), Problems()
    bank = problems.attempt(select_bank, config, whole, dataset)
    if bank is not None and not config.trust_pids:
        problems.attempt(bank.check_images, dataset.train)
    if config.uses_maps:
        problems.attempt(check_parts, bank or whole, dataset)
    if bank is None or problems.found:
        raise problems.error()
    return bank


def load_or_make_bank(
    config: StudentConfig, bank_file: Path | None, random_bank_dim: int | None, dataset: ReIDDataset
) -> PromptBank | None:
    """Return the bank in the file, or one of random texts, or None without either."""
    if bank_file is not None:
        return load_bank(config, bank_file, dataset)
    if random_bank_dim is None:
        return None
    logger.info(
        f"There is no prompt bank; random texts of {random_bank_dim} dimensions replace it."
    )
    vocabulary = dataset.vocabulary or LIP20
    bank = random_bank(dataset.train_pids, random_bank_dim, vocabulary)
    bank = select_bank(config, bank, dataset)
    if config.uses_maps:
        check_parts(bank, dataset)
    return bank


def select_bank(config: StudentConfig, bank: PromptBank, dataset: ReIDDataset) -> PromptBank:
    """Return the bank's rows of the training identities, as `config.supervision` uses them."""
    bank = bank.select(dataset.train_pids)
    if config.supervision == "label":
        return bank.label_only()
    if config.supervision == "permuted":
        return bank.permuted(config.seed)
    return bank


def check_parts(bank: PromptBank, dataset: ReIDDataset) -> None:
    """Raise PivlError unless bank and data set have parts, in the same vocabulary."""
    if not bank.present.any():
        raise PivlError(
            "The bank holds no part texts; train on its identity texts alone with"
            " --set supervision=identity, or make it again with --base."
        )
    if dataset.vocabulary is None:
        raise PivlError(
            f"{dataset.name} has no parsing maps for part alignment; name their folder with"
            " --parsing, or train on identity texts alone with --set supervision=identity."
        )
    if dataset.vocabulary != bank.vocabulary:
        raise PivlError(
            f"The bank has {bank.vocabulary.name} parts but the maps have"
            f" {dataset.vocabulary.name} parts; teach with these maps, or use the bank's maps."
        )
