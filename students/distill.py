"""`pivl-distill student`: train a light network on the texts of a bank. CLIP is not needed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import timm
from torch import nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.runs.provenance import array_sha256, file_provenance, weights_provenance
from pivl_distill.storage.filenames import STUDENT_FILE, TEACHER_EMBEDDINGS_FILE
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.teacher_embeddings import load_embeddings
from students.backbones import create_backbone
from students.student import Student, save_student

logger = logging.getLogger(__name__)

WEIGHTS_DIR = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class StudentReport:
    """Files and retrieval results of a student run."""

    run: Path
    student: Path
    start: str
    retrieval: RetrievalResult
    missing_maps: int
    seconds: float


def train_student(
    config: StudentConfig,
    bank_file: Path | None,
    out: Path | None = None,
    resume: Path | None = None,
) -> StudentReport:
    """Train a student; `bank_file` is None if and only if `config.supervision` is "none".

    The folder is `out`, or the next free one in `runs/`; `resume` continues an unfinished run.
    """
    stage2 = Stage2Run.prepare("student", config)
    dataset, device = stage2.dataset, stage2.device
    bank = None if bank_file is None else load_bank(config, bank_file, dataset)
    teacher_embeddings = load_teacher_embeddings(config, bank_file, dataset)
    network, start = build_network(config, dataset)
    student = make_student(config, network, dataset, bank, teacher_embeddings).to(device)
    inputs = {
        "bank": file_provenance(bank_file),
        "teacher_embeddings": array_sha256(teacher_embeddings),
        "start": weights_provenance(start),
    }
    with stage2.session(out, resume, **inputs) as run:
        vocabulary = bank.vocabulary if bank and uses_part_texts(config) else None
        store = stage2.load_crops(run, vocabulary, teacher_embeddings)
        text_features = make_text_features(config, bank).to(device) if bank else None
        run.progress.start_stage("training")

        def save(model: EmbeddingModel) -> None:
            save_student(model, run.path / STUDENT_FILE, config.last_stride)

        retrieval = stage2.train_and_evaluate(run, student, store, text_features, save)
        report = StudentReport(
            run=run.path,
            student=run.path / STUDENT_FILE,
            start=start,
            retrieval=retrieval,
            missing_maps=store.missing_maps,
            seconds=run.progress.seconds["training"],
        )
        run.finish(
            "student",
            retrieval=retrieval.summary(),
            start=start,
            bank=None if bank is None else {"file": str(bank_file), **bank.provenance},
            missing_maps=report.missing_maps,
            seconds=report.seconds,
        )
    return report


def uses_part_texts(config: StudentConfig) -> bool:
    """Return whether the student is trained with part texts (Eq. 11)."""
    return config.supervision in ("part", "label", "permuted")


def make_student(
    config: StudentConfig,
    network: nn.Module,
    dataset: ReIDDataset,
    bank: PromptBank | None,
    teacher_embeddings: np.ndarray | None,
) -> Student:
    """Return the network with the training heads that its supervision needs.

    Args:
        config: of `student`.
        network: backbone without heads.
        dataset: its training identities are the classes.
        bank: determines the dimension of projected features; None without texts.
        teacher_embeddings: [N, F], determines the dimension of distilled embeddings, or None.
    """
    return Student(
        config.arch,
        network,
        config.data.size_hw,
        identities=len(dataset.train_pids),
        dim=bank.dim if bank else None,
        align=uses_part_texts(config),
        head=config.stage2.head,
        teacher_dim=None if teacher_embeddings is None else teacher_embeddings.shape[1],
    )


def make_text_features(config: StudentConfig, bank: PromptBank) -> TextFeatures:
    """Return the text features of a bank for stage 2 of the student."""
    return TextFeatures.from_bank(bank, config.stage2.loss, config.stage2.head)


def load_teacher_embeddings(
    config: StudentConfig, bank_file: Path | None, dataset: ReIDDataset
) -> np.ndarray | None:
    """Return the teacher's embeddings [N, F] of the training crops, or None if no loss uses them.

    The file is `config.teacher_embeddings`, or the one next to the bank.
    """
    if not config.stage2.loss.embedding:
        return None
    path = config.teacher_embeddings or (
        bank_file.parent / TEACHER_EMBEDDINGS_FILE if bank_file else None
    )
    if path is None or not path.is_file():
        raise PivlError(
            f"stage2.loss.embedding needs teacher embeddings, but there are none at {path}; teach"
            " with --set save_teacher_embeddings=true, or name the file with"
            " --set teacher_embeddings=FILE."
        )
    return load_embeddings(path, dataset)


def load_bank(config: StudentConfig, bank_file: Path, dataset: ReIDDataset) -> PromptBank:
    """Load a bank and select what the supervision uses.

    Raises PivlError if the bank was made from other images, or lacks part texts that are needed.
    """
    bank = select_bank(config, PromptBank.load(bank_file), dataset)
    if not config.trust_pids:
        bank.check_images(dataset.train)
    if uses_part_texts(config):
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


def build_network(config: StudentConfig, dataset: ReIDDataset) -> tuple[nn.Module, str]:
    """Return the network to train, without heads, and the weights it starts from.

    If published weights cannot be downloaded, "auto" falls back to random weights with a message;
    weights requested by name raise PivlError.
    """
    start = resolve_pretrained(config.arch, config.pretrained, dataset)
    build = partial(
        create_backbone,
        config.arch,
        image_size_hw=config.data.size_hw,
        last_stride=config.last_stride,
    )
    try:
        return build(pretrained=start), start
    except PivlError as error:
        if start != "timm" or config.pretrained != "auto":
            raise
        logger.warning(f"{error} Training starts from random weights.")
        return build(pretrained="none"), "none"


def resolve_pretrained(arch: str, pretrained: str, dataset: ReIDDataset) -> str:
    """Resolve the setting `pretrained` to "timm", "none" or a file.

    "auto" takes the embedded weights on synthetic people if the architecture has them, timm's
    published weights on photographs if there are any, and otherwise random weights with a message.
    """
    embedded = WEIGHTS_DIR / f"{arch}.safetensors"
    if pretrained == "embedded" and not embedded.is_file():
        raise PivlError(
            f"There are no embedded weights for {arch}; set pretrained to timm or none."
        )
    if pretrained not in ("auto", "embedded"):
        return pretrained
    if embedded.is_file() and (pretrained == "embedded" or dataset.synthetic):
        return str(embedded)
    if not dataset.synthetic and timm.is_model(arch) and timm.is_model_pretrained(arch):
        return "timm"
    logger.warning(
        f"{arch} starts from random weights; name a file with --pretrained for a better start."
    )
    return "none"
