"""A prompt bank and a teacher from a published CLIP-ReID checkpoint, without training.

Identity texts use the prompts of the checkpoint. Part texts put its learned tokens into the part
prompt (Eq. 6). This needs a token table, which the file lacks; it is taken from the base CLIP,
whose text encoder CLIP-ReID keeps frozen. Without a base CLIP the bank has identity texts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from pivl_distill.bank import PromptBank
from pivl_distill.config import DataSettings, PromptSettings
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.part_maps import majority_labels
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.store import CropStore
from pivl_distill.data.unused import report_unused
from pivl_distill.data.vocabulary import LIP20, Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import embed
from pivl_distill.runs.provenance import bank_provenance
from pivl_distill.runs.run import Run, check_run_folder
from pivl_distill.storage.filenames import BANK_FILE, TEACHER_FILE
from teachers.clip_reid_checkpoint import (
    ClipReIDCheckpoint,
    load_clip_reid_checkpoint,
    take_token_table,
)
from teachers.prompts import IdentityPrompts
from teachers.teacher import save_teacher
from teachers.tuning import encode_bank_texts, present_parts

CPU = torch.device("cpu")

PROMPTS = PromptSettings()
"""Part prompts; CLIP-ReID has none."""

MAX_IDENTITIES_COMPARED = 64
"""Identities in the check that rows and identities agree; one crop each."""


@dataclass(frozen=True)
class ClipReIDBankReport:
    """Files of the run, and whether the checkpoint agrees with the data."""

    run: Path
    bank: Path
    teacher: Path
    identities: int
    parts: bool
    agreement: float
    """Share of identities whose crop is nearest to its own text; near 1 on the training data."""


def import_clip_reid_bank(
    source: Path,
    data: DataSettings,
    base: str | None = None,
    out: Path | None = None,
    sie_coefficient: float = 1.0,
    device: torch.device = CPU,
) -> ClipReIDBankReport:
    """Write a bank and a teacher from a CLIP-ReID checkpoint into a run folder, as `teach` does.

    Args:
        source: the checkpoint, .pth or .safetensors.
        data: its training data.
        base: weights of the CLIP it was fine-tuned from: an open_clip tag ("openai"), a Hugging
            Face id or a file; None to write identity texts only.
        out: run folder; the default is the next one in `runs/`.
        sie_coefficient: coefficient of the camera embeddings in training.
        device: where the networks run.

    Raises PivlError if checkpoint, data and base CLIP do not fit each other, or if `out` cannot be
    written.
    """
    check_run_folder(out)
    dataset = load_dataset(data.spec, data.parsing)
    report_unused(dataset, data.spec)
    checkpoint = load_clip_reid_checkpoint(source, sie_coefficient)
    checkpoint.clip.to(device)
    pids = order_pids(dataset, checkpoint.identities, source)
    bank = make_clip_reid_bank(checkpoint, dataset, pids, base)
    settings = {"source": str(source), "base": base, "data": data.model_dump(mode="json")}
    run = Run.create("teach", yaml.safe_dump({"bank": settings}, sort_keys=False), out)
    agreement = text_agreement(checkpoint, bank, dataset)
    bank.provenance["agreement"] = agreement
    bank.save(run.path / BANK_FILE)
    save_teacher(checkpoint.embedding_model(), run.path / TEACHER_FILE)
    run.finish("teach", source=str(source), agreement=agreement)
    return ClipReIDBankReport(
        run=run.path,
        bank=run.path / BANK_FILE,
        teacher=run.path / TEACHER_FILE,
        identities=checkpoint.identities,
        parts=base is not None,
        agreement=agreement,
    )


def order_pids(dataset: ReIDDataset, identities: int, source: Path) -> tuple[int, ...]:
    """Return the identity (pid) of each row of the checkpoint; PivlError if their counts differ.

    The official code numbers identities in the iteration order of a Python set: ascending on
    Market-1501 and MSMT17, not ascending where ids are large, as on DukeMTMC-reID.
    """
    records = sorted(dataset.train, key=lambda record: record.path.name)
    pids = tuple(set([record.pid for record in records]))  # noqa: C403  (the order of insertion)
    if len(pids) != identities:
        raise PivlError(
            f"{source} was trained on {identities} identities, but {dataset.name} has"
            f" {len(pids)}; name the data set it was trained on with --data."
        )
    return pids


def make_clip_reid_bank(
    checkpoint: ClipReIDCheckpoint, dataset: ReIDDataset, pids: tuple[int, ...], base: str | None
) -> PromptBank:
    """Return the bank; row i belongs to row i of the checkpoint and to `pids[i]`.

    Without `base` part texts are zero and no part is present, so none is used in alignment.
    """
    vocabulary = dataset.vocabulary or LIP20
    identity = checkpoint.identity_texts()
    shape, dim = (len(pids), len(vocabulary)), identity.shape[1]
    present = torch.zeros(shape, dtype=torch.bool)
    part, label = torch.zeros(*shape, dim), torch.zeros(len(vocabulary), dim)
    if base is not None:
        present = visible_parts(checkpoint, dataset, pids, vocabulary)
        part, label = encode_part_texts(checkpoint, vocabulary, present, base)
    clip = checkpoint.clip
    provenance = bank_provenance(clip.name, clip.weights_sha256, PROMPTS, dataset, base=base)
    images = frozenset(record.digest for record in dataset.train)
    return PromptBank(identity, part, label, present, pids, vocabulary, provenance, images)


def encode_part_texts(
    checkpoint: ClipReIDCheckpoint, vocabulary: Vocabulary, present: Tensor, base: str
) -> tuple[Tensor, Tensor]:
    """Return part texts [C, P, D] where `present` bool [C, P], and label texts [P, D].

    Their words use the token table of the CLIP `base`; see `take_token_table` for errors.
    """
    take_token_table(checkpoint, base)
    text, prompts = checkpoint.clip.text, checkpoint.prompts
    device = text.positional_embedding.device
    text.to(device)  # its new token table
    settings = PROMPTS.model_copy(update={"learned_tokens": prompts.tokens.shape[1]})
    learned = IdentityPrompts(text, settings, checkpoint.identities, vocabulary, torch.Generator())
    learned.tokens = nn.Parameter(prompts.tokens, requires_grad=False)
    _, part = encode_bank_texts(learned.to(device), present)
    with torch.no_grad():
        label = text.encode([PROMPTS.label.format(part=word) for word in vocabulary.words])
    return part.cpu(), label.cpu()


def visible_parts(
    checkpoint: ClipReIDCheckpoint,
    dataset: ReIDDataset,
    pids: tuple[int, ...],
    vocabulary: Vocabulary,
) -> Tensor:
    """Return bool [C, P]: parts in a cell of any crop of the identity; all True without maps."""
    shape = (len(pids), len(vocabulary))
    if dataset.vocabulary is None:
        return torch.ones(shape, dtype=torch.bool)
    image, row = checkpoint.clip.image, {pid: number for number, pid in enumerate(pids)}
    store = CropStore.load(dataset.train, checkpoint.clip.size_hw, vocabulary)
    assert store.maps is not None
    parts = majority_labels(torch.from_numpy(store.maps), image.grid_hw, len(vocabulary)).flatten(1)
    rows = torch.tensor([row[pid] for pid in store.pids.tolist()])
    return present_parts(parts, rows, *shape)


def text_agreement(checkpoint: ClipReIDCheckpoint, bank: PromptBank, dataset: ReIDDataset) -> float:
    """Return the share of identities whose first crop is nearest to its own text (dot product).

    Compares at most `MAX_IDENTITIES_COMPARED` identities. A low share on the checkpoint's own
    training data means that its rows are in another order than assumed.
    """
    model = checkpoint.embedding_model()
    first = {record.pid: record for record in reversed(dataset.train)}
    step = -(-len(bank.pids) // MAX_IDENTITIES_COMPARED)
    rows = range(0, len(bank.pids), step)
    store = CropStore.load([first[bank.pids[row]] for row in rows], model.size_hw)
    camids = store.camids
    if camids is not None:
        camids = camids.clip(max=max(model.cameras - 1, 0))
    projected = torch.from_numpy(embed(model, store.crops, camids))[:, -bank.dim :]
    nearest = (projected @ bank.identity.T).argmax(1)
    return (nearest == torch.tensor(list(rows))).float().mean().item()
