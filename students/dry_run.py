"""`pivl-distill student --dry-run`: build everything; train and write nothing."""

from __future__ import annotations

from pathlib import Path

from pivl_distill.config import StudentConfig
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.training.dry_run import (
    DryRunReport,
    describe_data,
    describe_stage2_run,
    note_random_weights,
)
from pivl_distill.training.stage2_run import Stage2Run
from students.inputs import prepare_inputs
from students.start import resolve_pretrained, without_download
from students.supervision import make_supervision, warn_of_unused


def dry_run_student(
    config: StudentConfig,
    bank_file: Path | None,
    random_bank_dim: int | None = None,
    out: Path | None = None,
    gallery: LoadedNetwork | None = None,
) -> DryRunReport:
    """Load the bank and build the student; report its size and whether both fit together.

    Reads one batch of crops and maps and downloads nothing: published weights are replaced by
    random ones. Runs one training step, except on the meta device.

    Args:
        config: of `student`.
        bank_file: the bank, or None.
        random_bank_dim: without a bank file, the dimension of random texts that replace it.
        out: where the run would be written.
        gallery: network for whose gallery the student would be trained.
    """
    stage2 = Stage2Run.prepare("student", config, out, dry_run=True)
    dataset, device = stage2.dataset, stage2.device
    if resolve_pretrained(config.arch, config.pretrained, dataset) == "timm":
        note_random_weights("timm's published weights")
    config = without_download(config, dataset)
    inputs = prepare_inputs(config, stage2, bank_file, random_bank_dim, gallery)
    bank, teacher = inputs.bank, inputs.teacher
    warn_of_unused(config, teacher)
    rows = describe_data(dataset, config.data, maps=inputs.vocabulary is not None)
    source = bank_file or "random texts"
    rows["prompt bank"] = "none" if bank is None else f"{source}, {bank.dim} dimensions"
    rows["started from"] = inputs.start
    if gallery is not None:
        rows["compatible with"] = f"{gallery.path}, {gallery.dim} dimensions"
    store, batch = stage2.load_first_batch(inputs.vocabulary)
    runs_step = device.type != "meta"
    first = teacher.rows(batch.tolist()) if teacher is not None and runs_step else None
    supervision = make_supervision(config, bank, first, store.pids, device)
    rows |= describe_stage2_run(stage2, inputs.student, store, supervision)
    return DryRunReport(f"Would train {config.arch}", rows)
