"""`pivl-distill student`: train a light network on the texts of a bank. CLIP is not needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.unlabeled import list_unlabeled
from pivl_distill.foreign import NETWORK_SUFFIXES
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.runs.provenance import array_sha256, file_provenance, weights_provenance
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import STUDENT_FILE, TEACHER_EMBEDDINGS_FILE
from pivl_distill.training.stage2 import train
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings, save_embeddings
from students.start import build_network
from students.student import Student, save_student
from students.supervision import (
    load_bank,
    load_teacher,
    make_supervision,
    uses_part_texts,
    warn_of_unused,
)


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
    unlabeled = list_extra_crops(config)
    records = [*dataset.train, *unlabeled]
    teacher = load_teacher(config, bank_file, dataset, records, resume)
    warn_of_unused(config, teacher)
    network, start = build_network(config, dataset)
    student = make_student(config, network, dataset, bank, teacher).to(device)
    with stage2.session(out, resume, **input_provenance(bank_file, teacher, start)) as run:
        vocabulary = bank.vocabulary if bank and uses_part_texts(config) else None
        store = stage2.load_crops(run, vocabulary)
        run.progress.start_stage("training")
        if teacher is not None:
            if Path(config.teacher).suffix in NETWORK_SUFFIXES:
                path = run.path / TEACHER_EMBEDDINGS_FILE
                save_embeddings(path, teacher, records, config.teacher)
            distill_start(config, student, store, unlabeled, teacher, bank, run)
            teacher = teacher.rows(slice(len(store)))
        supervision = make_supervision(config, bank, teacher, store.pids, device)

        def save(model: EmbeddingModel) -> None:
            save_student(model, run.path / STUDENT_FILE, config.last_stride)

        retrieval = stage2.train_and_evaluate(run, student, store, supervision, save)
        report = StudentReport(
            run=run.path,
            student=run.path / STUDENT_FILE,
            start=start,
            retrieval=retrieval,
            missing_maps=store.missing_maps,
            seconds=run.progress.seconds["training"],
        )
        used = None if bank is None else {"file": str(bank_file), **bank.provenance}
        finish_run(run, report, used)
    return report


def input_provenance(
    bank_file: Path | None, teacher: TeacherEmbeddings | None, start: str
) -> dict[str, Any]:
    """Return what identifies bank, teacher and initial weights, as JSON values."""
    embeddings = None if teacher is None else teacher.embeddings.numpy()
    return {
        "bank": file_provenance(bank_file),
        "teacher_embeddings": array_sha256(embeddings),
        "start": weights_provenance(start),
    }


def finish_run(run: Run, report: StudentReport, bank: dict[str, Any] | None) -> None:
    """Mark the run complete; `bank` is the file and the provenance of its bank."""
    run.finish(
        "student",
        retrieval=report.retrieval.summary(),
        start=report.start,
        bank=bank,
        missing_maps=report.missing_maps,
        seconds=report.seconds,
    )


def list_extra_crops(config: StudentConfig) -> list[Record]:
    """Return the unlabelled crops that the start by distillation uses."""
    folder = config.data.unlabeled
    if folder is None or not (config.distill.active and config.distill.start_epochs):
        return []
    return list_unlabeled(folder)


def distill_start(
    config: StudentConfig,
    student: Student,
    store: CropStore,
    unlabeled: list[Record],
    teacher: TeacherEmbeddings,
    bank: PromptBank | None,
    run: Run,
) -> None:
    """Train the student by the distillation terms alone for `distill.start_epochs` epochs.

    Args:
        config: of `student`.
        student: trained in place, on its device.
        store: the labelled training crops.
        unlabeled: further crops.
        teacher: embeddings of both, in this order.
        bank: its identity texts are anchors; None without.
        run: run folder; an interrupted run continues after its last saved step.
    """
    epochs = config.distill.start_epochs
    if not epochs or run.progress.has_reached("reid"):
        return
    if unlabeled:
        size_hw, cache_gib = config.data.size_hw, config.data.crop_cache_gib
        extra = CropStore.load(unlabeled, size_hw, what="unlabelled crops", cache_gib=cache_gib)
        store = store.concatenated(extra)
    device = next(student.parameters()).device
    targets = make_supervision(config, bank, teacher, store.pids, device).teacher
    train(
        student,
        replace(store, maps=None),
        Supervision(teacher=targets, labels=False),
        config.stage2.model_copy(update={"epochs": epochs, "average_decay": 0.0}),
        config.seed,
        run,
        "Distilling the start",
        stage="start",
    )


def make_student(
    config: StudentConfig,
    network: nn.Module,
    dataset: ReIDDataset,
    bank: PromptBank | None,
    teacher: TeacherEmbeddings | None,
) -> Student:
    """Return the network with the training heads that its supervision needs.

    Args:
        config: of `student`.
        network: backbone without heads.
        dataset: its training identities are the classes.
        bank: determines the dimension of projected features; None without texts.
        teacher: determines the dimension of distilled embeddings; None without a teacher.
    """
    return Student(
        config.arch,
        network,
        config.data.size_hw,
        identities=len(dataset.train_pids),
        dim=bank.dim if bank else None,
        align=uses_part_texts(config),
        head=config.stage2.head,
        teacher_dim=None if teacher is None else teacher.dim,
        parts=config.part_classification if config.classifies_parts else None,
    )
