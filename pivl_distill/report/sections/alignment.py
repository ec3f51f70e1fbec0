"""Alignment: cosines of cells with the part texts of the bank, part by part and on crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.data.images import read_crop
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.report.activation_maps import overlaid
from pivl_distill.report.blocks import (
    Block,
    Cell,
    LeftOutError,
    PictureLine,
    PictureRow,
    PictureRows,
    Table,
    Text,
    number,
    share,
)
from pivl_distill.report.cell_features import embed_cells
from pivl_distill.report.context import ReportContext
from pivl_distill.report.opened import OpenedNetwork, open_networks
from pivl_distill.report.part_alignment import PartAlignment, TextProbe
from pivl_distill.storage.filenames import BANK_FILE

TITLE = "Alignment"
CROPS = 512
"""Training crops; the linear map is fitted on every other one, and measured on the rest."""
SHOWN_CROPS, SHOWN_PARTS = 3, 4

EXPLANATION = (
    "The fusion head exists in training only. In its place, a linear map from the last map's cells"
    f" to the texts of their identity and part is fitted on half of {CROPS} training crops, for"
    " each network alike, and measured on the other half. Where the cosine with the own text is"
    " above that with the same part's texts of other people, cells tell people apart; what both"
    " share tells parts apart."
)


@dataclass(frozen=True)
class _Probed:
    """A network and its linear map to the texts."""

    network: OpenedNetwork
    probe: TextProbe
    parts: list[PartAlignment]


def build(context: ReportContext) -> list[Block]:
    """Return cosines by part, and heat maps of parts on some training crops."""
    bank = find_bank(context)
    networks, reasons = open_networks(context)
    records = choose_records(context, bank)
    probed = [_probe(context, network, records, bank) for network in networks]
    blocks: list[Block] = [Text(EXPLANATION), *(Text(reason, note=True) for reason in reasons)]
    blocks.append(_table(probed, bank.vocabulary))
    try:
        context.pictures.require()
        blocks.append(_pictures(context, probed, records[1::2], bank))
    except LeftOutError as error:
        blocks.append(Text(f"Pictures are left out. {error}", note=True))
    return blocks


def find_bank(context: ReportContext) -> PromptBank:
    """Return the bank of the last teach run, else that of a student; LeftOutError without one."""
    files = [run.path / BANK_FILE for run in context.runs_of("teach")]
    for run in context.runs_of("student"):
        bank = run.summary.get("bank")
        if isinstance(bank, dict) and "file" in bank:
            files.insert(0, Path(str(bank["file"])))
    found = [file for file in files if file.is_file()]
    if not found:
        raise LeftOutError("No prompt bank is there: no teach run is among the runs.")
    return PromptBank.load(found[-1])


def choose_records(context: ReportContext, bank: PromptBank) -> list[Record]:
    """Return at most `CROPS` training crops of the bank's people with part maps, spread evenly."""
    vocabulary = context.dataset.vocabulary
    if vocabulary is None or vocabulary.labels != bank.vocabulary.labels:
        raise LeftOutError("The data set has no part maps in the vocabulary of the bank.")
    known = set(bank.pids)
    usable = [r for r in context.dataset.train if r.pid in known and r.parsing is not None]
    if len(usable) < 2:
        raise LeftOutError("The bank is of other people than the training split.")
    picked = np.linspace(0, len(usable) - 1, min(CROPS, len(usable))).astype(int)
    return [usable[row] for row in np.unique(picked)]


def _probe(
    context: ReportContext, network: OpenedNetwork, records: list[Record], bank: PromptBank
) -> _Probed:
    size_hw = network.model.size_hw
    crops = np.stack([read_crop(record.path, size_hw) for record in records])
    part_maps = [context.part_map(record, size_hw) for record in records]
    if None in [None if part_map is None else 0 for part_map in part_maps]:
        raise PivlError("A part map of the training split cannot be read.")
    cells = embed_cells(
        network.model,
        network.layer,
        crops,
        [part_map for part_map in part_maps if part_map is not None],
        np.array([record.pid for record in records]),
        bank.vocabulary,
    )
    probe = TextProbe(cells.select(cells.crops % 2 == 0), bank)
    return _Probed(network, probe, probe.measure(cells.select(cells.crops % 2 == 1)))


def _table(probed: list[_Probed], vocabulary: Vocabulary) -> Table:
    columns = ["Part", "Share of cells"]
    for network in probed:
        columns += [f"{network.network.label}: own text", "other people's"]
    total = sum(part.cells for part in probed[0].parts)
    rows: list[list[Cell | str]] = []
    for part in probed[0].parts:
        row: list[Cell | str] = [vocabulary.labels[part.part], share(part.cells / total)]
        for network in probed:
            found = next((p for p in network.parts if p.part == part.part), None)
            both = (None, None) if found is None else (found.own, found.others)
            row += [number(value, "{:.3f}") for value in both]
        rows.append(row)
    return Table("Mean cosine of cells with texts, by part", columns, rows)


def _pictures(
    context: ReportContext, probed: list[_Probed], records: list[Record], bank: PromptBank
) -> PictureRows:
    rows = []
    for position in np.linspace(0, len(records) - 1, min(SHOWN_CROPS, len(records))).astype(int):
        record = records[position]
        who = f"Training crop of person {record.pid}"
        size_hw = probed[0].network.model.size_hw
        crop, part_map = read_crop(record.path, size_hw), context.part_map(record, size_hw)
        assert part_map is not None  # chosen for its map
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(bank.vocabulary)] = bank.vocabulary.palette
        lines = [
            PictureLine(
                [
                    context.crop_picture(record, crop, who, caption="crop"),
                    context.pictures.encode(
                        palette[part_map], f"{who}: its part map", caption="parts"
                    ),
                ]
            )
        ]
        parts = _shown_parts(part_map, record.pid, probed[0].probe, bank.vocabulary)
        lines += [_heat_maps(context, network, record, parts) for network in probed]
        rows.append(PictureRow(who, lines))
    return PictureRows("Cosine of every cell with the own text of a part", rows)


def _shown_parts(
    part_map: np.ndarray, pid: int, probe: TextProbe, vocabulary: Vocabulary
) -> list[int]:
    """Return the most frequent parts of a crop that have a text, without the background."""
    ids, counts = np.unique(part_map, return_counts=True)
    order = ids[np.argsort(-counts, kind="stable")]
    named = [int(p) for p in order if p < len(vocabulary) and p != vocabulary.background]
    return [part for part in named if probe.has_text(pid, part)][:SHOWN_PARTS]


def _heat_maps(
    context: ReportContext, probed: _Probed, record: Record, parts: list[int]
) -> PictureLine:
    model, pictures = probed.network.model, []
    crop = read_crop(record.path, model.size_hw)
    cell_map: Tensor = probed.network.layer.maps(model.preprocess(crop[None]).to(model.device))[0]
    for part in parts:
        name = probed.probe.bank.vocabulary.labels[part]
        cosines = probed.probe.heat_map(cell_map.cpu(), record.pid, part)
        alt = f"Cosine with the text of {name}, from {cosines.min():.2f} to {cosines.max():.2f}"
        heat = torch.from_numpy(cosines)[None, None].clamp(min=0)
        scaled = torch.nn.functional.interpolate(heat, size=model.size_hw, mode="bilinear")[0, 0]
        pictures.append(
            context.crop_picture(record, overlaid(crop, scaled.numpy()), alt, caption=name)
        )
    return PictureLine(pictures, probed.network.label)
