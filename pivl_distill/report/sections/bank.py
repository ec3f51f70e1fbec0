"""The bank: how similar its texts are, what they read out, and whom they cannot tell apart."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.errors import PivlError
from pivl_distill.report.blocks import (
    Block,
    Chart,
    ChartGrid,
    Heading,
    LeftOutError,
    PictureLine,
    PictureRow,
    PictureRows,
    Row,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.charts import heat_map
from pivl_distill.report.context import ReportContext
from pivl_distill.report.nearest_words import encode_phrases, nearest, part_phrases
from pivl_distill.report.runs import ReportRun
from pivl_distill.storage.filenames import BANK_FILE

TITLE = "The bank"
MAX_IDENTITIES = 100
"""Rows and columns of the heat map of identities."""
MAX_PAIRS, PICTURED_PAIRS, PICTURED_CROPS = 20, 8, 4
MAX_WORD_ROWS, WORDS = 30, 3
READOUT = {
    "own_identity": "Crops nearest to their own identity text",
    "nearest_label": "Part texts nearest to their own part word",
}
"""Key of the read-out in run.json → row of the table."""


def build(context: ReportContext) -> list[Block]:
    """Return tables, heat maps and pairs of people, for the bank of each teach run."""
    runs = [run for run in context.runs_of("teach") if (run.path / BANK_FILE).is_file()]
    if not runs:
        raise LeftOutError("No teach run with a prompt bank is among the runs.")
    blocks: list[Block] = []
    for run in runs:
        bank = PromptBank.load(run.path / BANK_FILE)
        if len(runs) > 1:
            blocks.append(Heading(run.name))
        blocks += [_describe(run, bank), _readout(run), *_part_cosines(run)]
        blocks += [_similarities(run, bank), *_confusable(context, run, bank)]
        blocks += [_part_words(run, bank), *_nearest_words(run, bank)]
    return blocks


def _describe(run: ReportRun, bank: PromptBank) -> Text:
    parts = int(bank.present.any(0).sum())
    return Text(
        f"{run.name} holds texts of {len(bank.pids):,} identities and {parts} of"
        f" {len(bank.vocabulary)} parts ({bank.vocabulary.name}), {bank.dim} dimensions each, made"
        f" from {bank.provenance.get('dataset', 'unknown data')} with"
        f" {bank.provenance.get('clip', 'an unknown CLIP')}."
    )


def _readout(run: ReportRun) -> Table:
    readout = run.summary.get("readout") or {}
    rows: list[Row] = [[title, share(readout.get(key))] for key, title in READOUT.items()]
    rows += [
        [f"Part texts nearest to the true colour: {name}", share(value)]
        for name, value in (readout.get("colour") or {}).items()
    ]
    rows += [
        ["Mean cosine of two identity texts", number(readout.get("identity_cosine"), "{:.3f}")],
        [
            "The same after the mean text is subtracted (root mean square)",
            number(readout.get("identity_cosine_centred"), "{:.3f}"),
        ],
    ]
    return Table(f"Read-out of {run.name}", ("", "Value"), rows)


def _part_cosines(run: ReportRun) -> list[Block]:
    readout = run.summary.get("readout") or {}
    plain, centred = readout.get("part_cosine"), readout.get("part_cosine_centred") or {}
    if not plain:
        return []
    rows: list[Row] = [
        [part, number(value, "{:.3f}"), number(centred.get(part), "{:.3f}")]
        for part, value in plain.items()
    ]
    columns = ("Part", "Mean cosine of two identities", "After the mean text is subtracted")
    caption = f"Part texts of {run.name}: near 1 they say little about the person"
    return [Table(caption, columns, rows, folded=True)]


def identity_cosines(bank: PromptBank) -> Tensor:
    """Return the cosines of identity texts after their mean is subtracted: float64 [C, C]."""
    texts = F.normalize(bank.identity.double(), dim=-1)
    centred = F.normalize(texts - texts.mean(0), dim=-1)
    return centred @ centred.T


def part_cosines(bank: PromptBank) -> Tensor:
    """Return the mean cosine of two parts' texts of one identity: float64 [P, P].

    The mean is over the identities that have both parts; NaN if none has.
    """
    texts = F.normalize(bank.part.double(), dim=-1)
    both = (bank.present[:, :, None] & bank.present[:, None]).double()
    cosines = torch.einsum("cpd,cqd->cpq", texts, texts)
    return (cosines * both).sum(0) / both.sum(0)


def _similarities(run: ReportRun, bank: PromptBank) -> ChartGrid:
    cosines = identity_cosines(bank).numpy()
    shown = _most_similar(cosines)
    order = shown[_by_similarity(cosines[np.ix_(shown, shown)])]
    names = [f"pid {bank.pids[row]}" for row in order]
    left = "" if len(order) == len(cosines) else f" of {len(cosines):,}, the most similar ones"
    people = Chart(
        f"Identity texts of {run.name}",
        heat_map(cosines[np.ix_(order, order)], names, names, colours="RdBu_r", span=(-1, 1)),
        f"Cosine after the mean text is subtracted, of {len(order)} identities{left}; similar ones"
        " are next to each other.",
        height_px=480,
    )
    labels, parts = bank.vocabulary.labels, part_cosines(bank).numpy()
    kept = np.flatnonzero(bank.present.any(0).numpy())
    names = [labels[part] for part in kept]
    between = Chart(
        f"Part texts of {run.name}",
        heat_map(parts[np.ix_(kept, kept)], names, names),
        "Mean cosine of two parts of one person.",
        height_px=480,
    )
    return ChartGrid([people, between])


def _most_similar(cosines: np.ndarray) -> np.ndarray:
    """At most `MAX_IDENTITIES` rows, those with the nearest neighbours, in ascending order."""
    others = cosines - 2 * np.eye(len(cosines))
    return np.sort(np.argsort(-others.max(axis=1), kind="stable")[:MAX_IDENTITIES])


def _by_similarity(cosines: np.ndarray) -> np.ndarray:
    """An order in which similar rows are next to each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(cosines) < 3:
        return np.arange(len(cosines))
    distances = squareform(np.clip(1 - cosines, 0, None), checks=False)
    order: np.ndarray = leaves_list(linkage(distances, "average", optimal_ordering=True))
    return order


def nearest_pairs(cosines: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return the `count` pairs of different rows with the highest cosines, highest first."""
    first, second = np.triu_indices(len(cosines), k=1)
    order = np.argsort(-cosines[first, second], kind="stable")[:count]
    return [(int(first[place]), int(second[place])) for place in order]


def _confusable(context: ReportContext, run: ReportRun, bank: PromptBank) -> list[Block]:
    """The pairs of identities with the most similar texts, as a table and as pictures."""
    cosines = identity_cosines(bank).numpy()
    raw = F.normalize(bank.identity.double(), dim=-1)
    pairs = nearest_pairs(cosines, MAX_PAIRS)
    rows: list[Row] = [
        [
            f"pid {bank.pids[one]} and pid {bank.pids[other]}",
            number(float(cosines[one, other]), "{:.3f}"),
            number(float(raw[one] @ raw[other]), "{:.3f}"),
        ]
        for one, other in pairs
    ]
    columns = ("Pair", "Cosine after the mean text is subtracted", "Cosine")
    blocks: list[Block] = [
        Heading(f"People whom the texts of {run.name} hardly tell apart"),
        Table(f"Numbers: pairs of {run.name} with the most similar texts", columns, rows, True),
    ]
    try:
        blocks.append(_pair_pictures(context, bank, cosines, pairs[:PICTURED_PAIRS]))
    except (LeftOutError, PivlError) as error:
        blocks.append(Text(f"Pictures of these people are left out. {error}", note=True))
    return blocks


def _pair_pictures(
    context: ReportContext, bank: PromptBank, cosines: np.ndarray, pairs: list[tuple[int, int]]
) -> PictureRows:
    context.pictures.require()
    rows = []
    for one, other in pairs:
        lines = [_crops_of(context, bank.pids[row]) for row in (one, other)]
        heading = f"Cosine {cosines[one, other]:.3f}: pid {bank.pids[one]}, pid {bank.pids[other]}"
        rows.append(PictureRow(heading, [line for line in lines if line.pictures]))
    return PictureRows("Training crops of the most similar pairs, one line per person", rows)


def _crops_of(context: ReportContext, pid: int) -> PictureLine:
    """Crops of a training identity, spread over its images."""
    records = [record for record in context.dataset.train if record.pid == pid]
    places = np.unique(np.linspace(0, len(records) - 1, PICTURED_CROPS).astype(int))
    pictures = [
        context.record_picture(records[place], f"person {pid}") for place in places if records
    ]
    return PictureLine(pictures, f"pid {pid}")


def _part_words(run: ReportRun, bank: PromptBank) -> Table:
    """Which part word is nearest to the texts of each part."""
    words = F.normalize(bank.label, dim=-1)
    found = (F.normalize(bank.part, dim=-1) @ words.T).argmax(-1)
    rows: list[Row] = []
    for part, label in enumerate(bank.vocabulary.labels):
        chosen = found[bank.present[:, part], part]
        if not len(chosen):
            continue
        counts = torch.bincount(chosen, minlength=len(words))
        own, others = counts[part].item(), counts.clone()
        others[part] = 0
        wrong = bank.vocabulary.words[int(others.argmax())] if others.any() else "–"
        rows.append((label, number(len(chosen)), share(own / len(chosen)), wrong))
    columns = ("Part", "Identities with it", "Nearest to its own word", "Most frequent other word")
    return Table(f"Nearest part words in {run.name}", columns, rows)


def _nearest_words(run: ReportRun, bank: PromptBank) -> list[Block]:
    """The nearest of part words in basic colours, for each identity and its parts."""
    phrases = part_phrases(bank.vocabulary)
    try:
        words = encode_phrases(run, phrases)
    except PivlError as error:
        return [Text(str(error), note=True)]
    identities = nearest(bank.identity[:MAX_WORD_ROWS], words, phrases, WORDS)
    rows: list[Row] = []
    for row, found in enumerate(identities):
        present = bank.present[row].nonzero().flatten()
        kept = [part for part in present.tolist() if part != bank.vocabulary.background]
        by_part = nearest(bank.part[row, kept], words, phrases, 1) if kept else []
        labels = (bank.vocabulary.labels[part] for part in kept)
        texts = [f"{label}: {text}" for label, (text,) in zip(labels, by_part, strict=True)]
        rows.append([f"pid {bank.pids[row]}", ", ".join(found), "; ".join(texts)])
    cut = "" if len(bank.pids) <= MAX_WORD_ROWS else f", first {MAX_WORD_ROWS} identities"
    caption = f"Nearest words in {run.name}: {len(phrases)} part words, plain and coloured{cut}"
    columns = ("Identity", f"Its text: nearest {WORDS}", "Its part texts: nearest 1")
    return [Table(caption, columns, rows, folded=True)]
