"""What a student is trained from: loaded, and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import StudentConfig
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.unlabeled import list_unlabeled
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.foreign import NETWORK_SUFFIXES
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.runs.provenance import array_sha256, file_provenance, weights_provenance
from pivl_distill.training.compatibility import GalleryTargets
from pivl_distill.training.disk_room import training_bytes
from pivl_distill.training.dry_run import building_on
from pivl_distill.training.preflight import check_batch_norm, check_images
from pivl_distill.training.stage2_run import Stage2Run
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.teacher_embeddings import TeacherEmbeddings
from students.backbones import Backbone, create_backbone
from students.start import build_network, without_download
from students.student import Student
from students.supervision import (
    load_or_make_bank,
    load_teacher,
    make_supervision,
)


@dataclass(frozen=True)
class StudentInputs:
    """A student before its training, and what it learns from."""

    student: Student
    start: str
    """The weights it starts from."""
    bank: PromptBank | None
    unlabeled: list[Record]
    teacher: TeacherEmbeddings | None
    """Embeddings of the training crops, then of the unlabelled ones."""
    supervision: Supervision
    """Targets of the training crops; none on the meta device."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The parts that are aligned; None if part texts are not used."""
        return self.bank.vocabulary if self.bank and self.student.fusion else None


def prepare_inputs(
    config: StudentConfig,
    stage2: Stage2Run,
    bank_file: Path | None,
    random_bank_dim: int | None = None,
    gallery: LoadedNetwork | None = None,
) -> StudentInputs:
    """Load bank and teacher, build the student, and check that they fit and can be written.

    Weights are downloaded, and crops embedded by a teacher network, only if no problem was found.

    Args:
        config: of `student`.
        stage2: the run, with the problems found so far.
        bank_file: the bank, or None.
        random_bank_dim: dimension of random texts that replace a missing bank; None: no texts.
        gallery: the network `config.compatible.network`, or None.

    Raises: PivlError that lists all problems of the run.
    """
    problems, dataset, device = stage2.problems, stage2.dataset, stage2.device
    bank = problems.attempt(load_or_make_bank, config, bank_file, random_bank_dim, dataset)
    unlabeled = problems.attempt(list_extra_crops, config) or []
    check_images({"unlabelled": unlabeled}, dataset.root, problems)
    building = without_download(config, dataset) if problems.found else config
    with building_on(device, random_weights=building.pretrained == "none"):
        layer_dim = problems.attempt(find_layer_dim, building, gallery)
        built = problems.attempt(build_network, building, dataset, layer_dim)
    if built is not None:
        network, size_hw = built[0].to(device).eval(), config.data.size_hw
        problems.attempt(check_batch_norm, network, size_hw, config.stage2, device)
    records, embed = [*dataset.train, *unlabeled], not problems.found
    teacher = problems.attempt(
        load_teacher, config, bank_file, dataset, records, stage2.resume, embed=embed
    )
    if built is None:
        raise problems.error()
    network, start = built
    student = make_student(config, network, dataset, bank, teacher, gallery).to(device)
    supervision: Supervision | None = Supervision()
    if device.type != "meta":
        own = None if teacher is None else teacher.rows(slice(len(dataset.train)))
        supervision = problems.attempt(make_supervision, config, bank, own, stage2.pids, device)
        if supervision is not None and gallery is not None and not problems.found:
            targets = problems.attempt(make_gallery_targets, config, gallery, stage2)
            supervision = replace(supervision, gallery=targets)
    stage2.check_room(training_bytes(student, config.stage2) + _embedding_bytes(config, teacher))
    if supervision is None or problems.found:
        raise problems.error()
    return StudentInputs(student, start, bank, unlabeled, teacher, supervision)


def make_gallery_targets(
    config: StudentConfig, gallery: LoadedNetwork, stage2: Stage2Run
) -> GalleryTargets:
    """Embed the training crops with the network whose gallery is kept."""
    vectors = gallery.embed_records(stage2.dataset.train, f"training crops by {gallery.path.name}")
    labels = np.unique(stage2.pids, return_inverse=True)[1]
    device = stage2.device
    return GalleryTargets.prepare(
        torch.from_numpy(vectors).to(device), torch.from_numpy(labels).to(device), config.compatible
    )


def find_layer_dim(config: StudentConfig, gallery: LoadedNetwork | None) -> int | None:
    """Return the outputs of a linear layer that ends the student, or None if it needs none.

    Its embedding must be as long as the vectors of the gallery. Where it is already, it can follow
    them unless they have negative values, which the pooled maps of most networks have not.
    """
    if gallery is None:
        return None
    if gallery.space is None:
        raise PivlError(
            f"The export {gallery.path.parent} is of an earlier version and does not say which"
            " vector space it is in; export it again, then train for its gallery."
        )
    network = create_backbone(config.arch, image_size_hw=config.data.size_hw)
    same_length = Backbone(network).feature_dim == gallery.dim
    return None if same_length and gallery.nonnegative else gallery.dim


def _embedding_bytes(config: StudentConfig, teacher: TeacherEmbeddings | None) -> int:
    """Return the size of the file of embeddings that a run with a teacher network writes."""
    if teacher is None or Path(config.teacher).suffix not in NETWORK_SUFFIXES:
        return 0
    return teacher.embeddings.nbytes


def input_provenance(
    bank_file: Path | None,
    teacher: TeacherEmbeddings | None,
    start: str,
    gallery: LoadedNetwork | None = None,
) -> dict[str, Any]:
    """Return what identifies bank, teacher, initial weights and gallery, as JSON values."""
    embeddings = None if teacher is None else teacher.embeddings.numpy()
    return {
        "bank": file_provenance(bank_file),
        "teacher_embeddings": array_sha256(embeddings),
        "start": weights_provenance(start),
        **({} if gallery is None else {"gallery": str(gallery.space)}),
    }


def list_extra_crops(config: StudentConfig) -> list[Record]:
    """Return the unlabelled crops that the start by distillation uses."""
    folder = config.data.unlabeled
    if folder is None or not (config.distill.active and config.distill.start_epochs):
        return []
    return list_unlabeled(folder)


def make_student(
    config: StudentConfig,
    network: nn.Module,
    dataset: ReIDDataset,
    bank: PromptBank | None,
    teacher: TeacherEmbeddings | None,
    gallery: LoadedNetwork | None = None,
) -> Student:
    """Return the network with the training heads that its supervision needs.

    Args:
        config: of `student`.
        network: backbone without heads.
        dataset: its training identities are the classes.
        bank: determines the dimension of projected features; None without texts.
        teacher: determines the dimension of distilled embeddings; None without a teacher.
        gallery: network for whose gallery the student is trained; None without one.
    """
    return Student(
        config.arch,
        network,
        config.data.size_hw,
        identities=len(dataset.train_pids),
        dim=bank.dim if bank else None,
        align=config.uses_maps,
        head=config.stage2.head,
        teacher_dim=None if teacher is None else teacher.dim,
        parts=config.part_classification if config.classifies_parts else None,
        compatible_with=() if gallery is None or gallery.space is None else (gallery.space.id,),
    )
