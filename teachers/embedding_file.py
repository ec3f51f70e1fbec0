"""The teacher's embeddings of training and unlabelled crops, as a file for students."""

from __future__ import annotations

from dataclasses import replace

from pivl_distill.config import TeachConfig
from pivl_distill.data.records import Record
from pivl_distill.data.store import CropStore
from pivl_distill.data.unlabeled import PID, list_unlabeled
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runs.run import Run
from pivl_distill.storage.filenames import TEACHER_EMBEDDINGS_FILE
from pivl_distill.training.teacher_embeddings import Classifier, embed_views, save_embeddings
from teachers.teacher import Teacher


def list_extra_crops(config: TeachConfig) -> list[Record]:
    """Return the unlabelled crops to embed; raises PivlError if the teacher needs their cameras."""
    folder = config.data.unlabeled
    if folder is None or not config.embedding_views:
        return []
    if config.clip.sie_coefficient:
        raise PivlError(
            "A teacher with camera embeddings cannot embed crops of unknown cameras; leave out"
            " --unlabeled, or set clip.sie_coefficient to 0."
        )
    return list_unlabeled(folder)


def save_embedding_file(
    config: TeachConfig,
    model: EmbeddingModel,
    teacher: Teacher,
    store: CropStore,
    records: list[Record],
    run: Run,
) -> None:
    """Write the teacher's embeddings of the training and the unlabelled crops to the run folder.

    Args:
        config: number of views, padding, crop size.
        model: the trained teacher without heads.
        teacher: its classifiers become part of the file, unless `model` has other weights than it.
        store: the training crops, then the unlabelled ones.
        records: of these crops.
        run: run folder.
    """
    pids = tuple(sorted({record.pid for record in records} - {PID}))
    pad_px = config.stage2.augment.pad_px
    embeddings = embed_views(model, store, config.embedding_views, pad_px)
    classifier = None
    if not (config.stage2.average_decay or config.stage2.keep_best):
        weight, bias = teacher.classifier()
        classifier = Classifier(weight.cpu(), bias.cpu(), pids)
    embeddings = replace(embeddings, projected_dim=teacher.image_encoder.dim, classifier=classifier)
    save_embeddings(run.path / TEACHER_EMBEDDINGS_FILE, embeddings, records, model.name)
