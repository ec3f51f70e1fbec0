"""`pivl-distill student`: a bank teaches a light network. No CLIP runs, none need be installed."""

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
from pivl_distill.storage.filenames import EMBEDDINGS_FILE, STUDENT_FILE
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.teacher_embeddings import load_embeddings
from students.backbones import create_backbone
from students.student import Student, save_student

logger = logging.getLogger(__name__)

WEIGHTS_DIR = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class StudentReport:
    """What a student run made and how good it is."""

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
    """Train a student under `config.supervision`; `bank_file` is None exactly for "none".

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
    """Whether part texts teach, by Eq. 11."""
    return config.supervision in ("part", "label", "permuted")


def make_student(
    config: StudentConfig,
    network: nn.Module,
    dataset: ReIDDataset,
    bank: PromptBank | None,
    teacher_embeddings: np.ndarray | None,
) -> Student:
    """The bare network inside the shell that its supervision needs."""
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
    """What the student learns from a bank."""
    return TextFeatures.from_bank(bank, config.stage2.loss, config.stage2.head)


def load_teacher_embeddings(
    config: StudentConfig, bank_file: Path | None, dataset: ReIDDataset
) -> np.ndarray | None:
    """The teacher's embeddings [N, F] of the training crops, where the loss has a use for them."""
    if not config.stage2.loss.embedding:
        return None
    path = config.teacher_embeddings or (bank_file.parent / EMBEDDINGS_FILE if bank_file else None)
    if path is None or not path.is_file():
        raise PivlError(
            f"stage2.loss.embedding needs teacher embeddings, but there are none at {path}; teach"
            " with --set save_teacher_embeddings=true, or name the file with"
            " --set teacher_embeddings=FILE."
        )
    return load_embeddings(path, dataset)


def load_bank(config: StudentConfig, bank_file: Path, dataset: ReIDDataset) -> PromptBank:
    """The bank that the supervision asks for, out of a file.

    Raises PivlError if it is about other images, or has no parts where they teach.
    """
    bank = select_bank(config, PromptBank.load(bank_file), dataset)
    if not config.trust_pids:
        bank.check_images(dataset.train)
    if uses_part_texts(config):
        check_parts(bank, dataset)
    return bank


def select_bank(config: StudentConfig, bank: PromptBank, dataset: ReIDDataset) -> PromptBank:
    """The bank's rows for the training identities, in the form that the supervision asks for."""
    bank = bank.select(dataset.train_pids)
    if config.supervision == "label":
        return bank.label_only()
    if config.supervision == "permuted":
        return bank.permuted(config.seed)
    return bank


def check_parts(bank: PromptBank, dataset: ReIDDataset) -> None:
    """PivlError unless the bank has part texts and the data set maps in the same vocabulary."""
    if not bank.present.any():
        raise PivlError(
            "The bank holds no part texts; learn from its identity texts alone with"
            " --set supervision=identity, or make it again with --base."
        )
    if dataset.vocabulary is None:
        raise PivlError(
            f"{dataset.name} has no parsing maps to align parts by; name their folder with"
            " --parsing, or learn from identity texts alone with --set supervision=identity."
        )
    if dataset.vocabulary != bank.vocabulary:
        raise PivlError(
            f"The bank speaks of {bank.vocabulary.name} parts but the maps are in"
            f" {dataset.vocabulary.name}; teach with these maps, or use the maps it was made from."
        )


def build_network(config: StudentConfig, dataset: ReIDDataset) -> tuple[nn.Module, str]:
    """The bare network to train and what it starts from.

    Weights that "auto" chose but that cannot be downloaded are told and done without; weights that
    were asked for by name are an error then.
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
    """What `pretrained` means here: "timm", "none" or a file.

    "auto" is the embedded start on synthetic people where there is one for this arch, else timm's
    published weights where there are any, else random weights, which is said.
    """
    embedded = WEIGHTS_DIR / f"{arch}.safetensors"
    if pretrained == "embedded" and not embedded.is_file():
        raise PivlError(f"There is no embedded start for {arch}; set pretrained to timm or none.")
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
