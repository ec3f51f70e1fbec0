"""`pivl-distill student --dry-run`: everything built, nothing trained, nothing written."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path

import numpy as np

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.sampling import epoch_rng, pk_batches
from pivl_distill.data.store import load_training
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.training.dry_run import (
    DryRunReport,
    describe_data,
    describe_stage2,
    describe_step,
    dry_run_device,
    random_bank,
)
from students.distill import (
    build_network,
    check_parts,
    load_bank,
    load_teacher_embeddings,
    make_student,
    make_text_features,
    resolve_pretrained,
    select_bank,
    uses_part_texts,
)

logger = logging.getLogger(__name__)


def dry_run_student(
    config: StudentConfig, bank_file: Path | None, stand_in_dim: int | None = None
) -> DryRunReport:
    """Load the data's listing and the bank, build the student, and see whether all fits together.

    Where no bank has been made yet, random texts of `stand_in_dim` dimensions take its place, and
    random weights that of published ones. One batch of crops and maps is read. Off the meta device
    one training step is run.
    """
    dataset = load_dataset(config.data.spec, config.data.parsing)
    config = without_download(config, dataset)
    bank = _bank(config, bank_file, stand_in_dim, dataset)
    vocabulary = bank.vocabulary if bank and uses_part_texts(config) else None
    teacher_embeddings = load_teacher_embeddings(config, bank_file, dataset)
    device = dry_run_device(config.device)
    empty = device.type == "meta" and config.pretrained == "none"
    with device if empty else contextlib.nullcontext():
        network, start = build_network(config, dataset)
    student = make_student(config, network, dataset, bank, teacher_embeddings).to(device)
    text_features = make_text_features(config, bank) if bank else None
    pids = np.array([record.pid for record in dataset.train])
    rows = describe_data(dataset, config.data, maps=vocabulary is not None)
    source = bank_file or "random texts"
    rows["prompt bank"] = "none" if bank is None else f"{source}, {bank.dim} dimensions"
    rows["started from"] = start
    rows |= describe_stage2(student, pids, text_features, config.stage2, config.seed)

    p, k = config.stage2.identities_per_batch, config.stage2.crops_per_identity
    batch = pk_batches(pids, p, k, epoch_rng(config.seed, 0))[0]
    data = config.data.model_copy(update={"crop_cache_gib": 0})  # nothing is written
    store = load_training(
        [dataset.train[crop] for crop in batch],
        data,
        vocabulary,
        confidence=config.stage2.loss.align_confidence,
    )
    if device.type != "meta":
        seen = None if teacher_embeddings is None else teacher_embeddings[batch]
        store = dataclasses.replace(store, teacher_embeddings=seen)
        rows |= describe_step(
            student, store, text_features.to(device) if text_features else None, config.stage2
        )
    return DryRunReport(f"Would train {config.arch}", rows)


def without_download(config: StudentConfig, dataset: ReIDDataset) -> StudentConfig:
    """Settings that name where training starts; random weights stand in for published ones."""
    start = resolve_pretrained(config.arch, config.pretrained, dataset)
    if start == "timm":
        logger.info("Random weights stand in for timm's, which a dry run does not download.")
        start = "none"
    return config.model_copy(update={"pretrained": start})


def _bank(
    config: StudentConfig, bank_file: Path | None, stand_in_dim: int | None, dataset: ReIDDataset
) -> PromptBank | None:
    """The bank in the file, else one of random texts, else none."""
    if bank_file is not None:
        return load_bank(config, bank_file, dataset)
    if stand_in_dim is None:
        return None
    logger.info(f"No bank has been made yet; random texts of {stand_in_dim} dimensions stand in.")
    random_texts = random_bank(dataset, stand_in_dim, dataset.vocabulary or LIP20)
    bank = select_bank(config, random_texts, dataset)
    if uses_part_texts(config):
        check_parts(bank, dataset)
    return bank
