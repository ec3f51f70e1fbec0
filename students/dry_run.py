"""`pivl-distill student --dry-run`: build everything; train and write nothing."""

from __future__ import annotations

import logging
from pathlib import Path

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.training.dry_run import (
    DryRunReport,
    building_on,
    describe_data,
    describe_stage2_run,
    note_random_weights,
    random_bank,
)
from pivl_distill.training.stage2_run import Stage2Run
from students.distill import list_extra_crops, make_student
from students.start import build_network, resolve_pretrained
from students.supervision import (
    check_parts,
    load_bank,
    load_teacher,
    make_supervision,
    select_bank,
    uses_part_texts,
    warn_of_unused,
)

logger = logging.getLogger(__name__)


def dry_run_student(
    config: StudentConfig, bank_file: Path | None, random_bank_dim: int | None = None
) -> DryRunReport:
    """Load the bank and build the student; report its size and whether both fit together.

    Without a bank file, `random_bank_dim` is the dimension of random texts that replace the bank.
    Reads one batch of crops and maps and downloads nothing: published weights are replaced by
    random ones. Runs one training step, except on the meta device.
    """
    stage2 = Stage2Run.prepare("student", config, dry_run=True)
    dataset, device = stage2.dataset, stage2.device
    config = without_download(config, dataset)
    bank = _load_or_make_bank(config, bank_file, random_bank_dim, dataset)
    records = [*dataset.train, *list_extra_crops(config)]
    teacher = load_teacher(config, bank_file, dataset, records)
    warn_of_unused(config, teacher)
    with building_on(device, random_weights=config.pretrained == "none"):
        network, start = build_network(config, dataset)
    student = make_student(config, network, dataset, bank, teacher).to(device)
    vocabulary = bank.vocabulary if bank and uses_part_texts(config) else None
    rows = describe_data(dataset, config.data, maps=vocabulary is not None)
    source = bank_file or "random texts"
    rows["prompt bank"] = "none" if bank is None else f"{source}, {bank.dim} dimensions"
    rows["started from"] = start
    store, batch = stage2.load_first_batch(vocabulary)
    runs_step = device.type != "meta"
    first = teacher.rows(batch.tolist()) if teacher is not None and runs_step else None
    supervision = make_supervision(config, bank, first, store.pids, device)
    rows |= describe_stage2_run(stage2, student, store, supervision)
    return DryRunReport(f"Would train {config.arch}", rows)


def without_download(config: StudentConfig, dataset: ReIDDataset) -> StudentConfig:
    """Return settings with `pretrained` resolved, random weights in place of a download."""
    start = resolve_pretrained(config.arch, config.pretrained, dataset)
    if start == "timm":
        note_random_weights("timm's published weights")
        start = "none"
    return config.model_copy(update={"pretrained": start})


def _load_or_make_bank(
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
    if uses_part_texts(config):
        check_parts(bank, dataset)
    return bank
