"""The QA sheet: one picture of crops next to their maps, with the share of each class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pivl_distill.data.vocabulary import voc_palette
from pivl_distill.parsing.map_statistics import MapStatistics
from pivl_distill.storage.files import write_bytes

CELL_HW = (192, 96)
_GAP_PX = 4
_COLUMNS = 8
_ROW_PX, _TEXT_PX, _BAR_PX = 20, 150, 220


def write_qa_sheet(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], statistics: MapStatistics, out: Path
) -> None:
    """Write a PNG of (crop uint8 RGB [H, W, 3], map uint8 [H, W]) pairs above the class shares."""
    crops, legend = _pairs(pairs), _legend(statistics)
    sheet = Image.new(
        "RGB", (max(crops.width, legend.width), crops.height + legend.height), "white"
    )
    sheet.paste(crops, (0, 0))
    sheet.paste(legend, (0, crops.height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())


def _pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    (height, width), palette = CELL_HW, voc_palette(256)
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    step_x, step_y = 2 * width + _GAP_PX, height + _GAP_PX
    sheet = Image.new("RGB", (columns * step_x, rows * step_y), "white")
    for number, (crop, labels) in enumerate(pairs):
        left, top = number % columns * step_x, number // columns * step_y
        sheet.paste(Image.fromarray(crop).resize((width, height)), (left, top))
        colours = Image.fromarray(palette[labels])
        sheet.paste(colours.resize((width, height), Image.Resampling.NEAREST), (left + width, top))
    return sheet


def _legend(statistics: MapStatistics) -> Image.Image:
    """Draw a row per class: colour, label, and its share of maps and pixels."""
    rows = list(statistics.shares())
    sheet = Image.new("RGB", (_TEXT_PX + _BAR_PX + 240, _ROW_PX * (len(rows) + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, images, pixels) in enumerate(rows):
        top = number * _ROW_PX + _GAP_PX
        colour = tuple(statistics.vocabulary.palette[number].tolist())
        draw.rectangle((4, top, 18, top + 12), fill=colour, outline="black")
        draw.text((26, top), label, fill="black")
        draw.rectangle((_TEXT_PX, top, _TEXT_PX + _BAR_PX * images, top + 12), fill=(120, 150, 190))
        figures = f"{images:6.1%} of maps, {pixels:6.2%} of pixels"
        draw.text((_TEXT_PX + _BAR_PX + 8, top), figures, fill="black")
    return sheet
