"""`pivl-distill student`: train a light network on the texts of a bank. CLIP is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.store import CropStore
from pivl_distill.foreign import NETWORK_SUFFIXES
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import RetrievalResult
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runs.callbacks import Callback
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import STUDENT_FILE, TEACHER_EMBEDDINGS_FILE
from pivl_distill.training.stage2 import train
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings, save_embeddings
from students.inputs import input_provenance, prepare_inputs
from students.student import Student, save_student
from students.supervision import make_supervision, warn_of_unused


@dataclass(frozen=True)
class StudentReport:
    """Files and retrieval results of a student run."""

    run: Path
    student: Path
    start: str
    retrieval: RetrievalResult | None
    """None without evaluation."""
    missing_maps: int
    seconds: float
    gallery: Path | None = None
    """Network in whose gallery its queries work."""


def train_student(
    config: StudentConfig,
    bank_file: Path | None,
    out: Path | None = None,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
    gallery: LoadedNetwork | None = None,
) -> StudentReport:
    """Train a student.

    Args:
        config: its settings.
        bank_file: the bank; None if and only if `config.supervision` is "none".
        out: run folder; default: the next free one in `runs/`.
        resume: unfinished run to continue.
        callbacks: called during the run.
        gallery: the network `config.compatible.network`, for whose gallery the student is trained.
    """
    stage2 = Stage2Run.prepare("student", config, out, resume, callbacks=callbacks)
    inputs = prepare_inputs(config, stage2, bank_file, gallery=gallery)
    student, teacher, bank = inputs.student, inputs.teacher, inputs.bank
    warn_of_unused(config, teacher)
    provenance = input_provenance(bank_file, teacher, inputs.start, gallery)
    stage2.refuse_changes(**provenance)
    store = stage2.load_crops(inputs.vocabulary)
    unlabeled = stage2.load_unlabeled(inputs.unlabeled)
    with stage2.session(store, **provenance) as run:
        run.progress.start_stage("training")
        if teacher is not None:
            if Path(config.teacher).suffix in NETWORK_SUFFIXES:
                path, records = run.path / TEACHER_EMBEDDINGS_FILE, stage2.dataset.train
                save_embeddings(path, teacher, [*records, *inputs.unlabeled], config.teacher)
            distill_start(config, student, store, unlabeled, teacher, bank, run)

        def save(model: EmbeddingModel) -> None:
            save_student(model, run.path / STUDENT_FILE, config.last_stride)

        retrieval = stage2.train_and_evaluate(run, student, store, inputs.supervision, save)
        report = StudentReport(
            run=run.path,
            student=run.path / STUDENT_FILE,
            start=inputs.start,
            retrieval=retrieval,
            missing_maps=store.missing_maps,
            seconds=run.progress.seconds["training"],
            gallery=None if gallery is None else gallery.path,
        )
        used = None if bank is None else {"file": str(bank_file), **bank.provenance}
        finish_run(run, report, used)
    return report


def finish_run(run: Run, report: StudentReport, bank: dict[str, Any] | None) -> None:
    """Mark the run complete; `bank` is the file and the provenance of its bank."""
    run.finish(
        "student",
        retrieval=None if report.retrieval is None else report.retrieval.summary(),
        start=report.start,
        bank=bank,
        missing_maps=report.missing_maps,
        seconds=report.seconds,
    )


def distill_start(
    config: StudentConfig,
    student: Student,
    store: CropStore,
    unlabeled: CropStore | None,
    teacher: TeacherEmbeddings,
    bank: PromptBank | None,
    run: Run,
) -> None:
    """Train the student by the distillation terms alone for `distill.start_epochs` epochs.

    Args:
        config: of `student`.
        student: trained in place, on its device.
        store: the labelled training crops.
        unlabeled: further crops, or None.
        teacher: embeddings of both, in this order.
        bank: its identity texts are anchors; None without.
        run: run folder; an interrupted run continues after its last saved step.
    """
    epochs = config.distill.start_epochs
    if not epochs or run.progress.has_reached("reid"):
        return
    if unlabeled is not None:
        store = store.concatenated(unlabeled)
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
