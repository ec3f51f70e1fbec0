"""Parsing maps: their folder, its `parsing.json`, and the maps, read for training and imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import damaged, edited_json, renamed
from fuzz.uses import picture, use_each
from pivl_distill.data.check import check_dataset
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.part_maps import read_confidence, read_map, read_map_size, read_stored_labels
from pivl_distill.parsing.parse_dataset import parse_dataset

SIZE_HW = (16, 8)
PARSER = "parser.yaml"
_VALUES = (
    "",
    "values: {0: Background, 1: Hat, '#010203': ignore}\n",
    "to: coarse6\n",
    "min_area: 0.5\n",
)
_TOKENS = (b"PLTE", b"tRNS", b"IDAT", b"IEND", b"\0\0\0\x0cIHDR")


def cases() -> st.SearchStrategy[Case]:
    """Two images and their maps, some of them damaged or renamed."""
    images = {f"data/train/{pid}/{pid}.png": picture("PNG", seed=pid) for pid in (1, 2)}
    seeds = [picture("PNG", mode) for mode in ("P", "L", "LA", "RGB", "RGBA", "I;16")]
    seeds += [picture("PNG", "P", bits=4), picture("JPEG"), picture("TIFF", "L")]
    kinds = st.sampled_from(seeds)
    content = (
        kinds | st.sampled_from(seeds[:3]) | kinds.flatmap(lambda data: damaged(data, _TOKENS))
    )
    vocabulary = edited_json(b'{"vocabulary": "lip20", "format": 1, "maps": 2}')
    parts = st.fixed_dictionaries(
        {
            "data/maps/1.png": content,
            "data/maps/2.png": content,
            "data/maps/parsing.json": vocabulary,
        }
    )
    trees = parts.flatmap(lambda drawn: st.just(drawn) | renamed(drawn, 1))
    names = st.sampled_from(["lip20"] * 8 + ["coarse6", "pascal7", "lip", "\x1b", "x" * 99])

    def make(maps: dict[str, bytes], name: str, more: str) -> Case:
        parser = f"kind: maps\nvocabulary: {name!r}\n{more}".encode(errors="surrogatepass")
        return Case({**images, PARSER: parser, **maps}, {"names": [name]})

    return st.builds(make, trees, names, st.sampled_from(_VALUES))


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Train with the maps, and import them; what is written is readable, also after an error."""
    spec, maps = f"folders:{given / 'data'}", given / "data" / "maps"
    use_each(lambda: _read(spec, maps), lambda: _import(spec, given, maps, out / "parsing"))


def _read(spec: str, maps: Path) -> None:
    dataset = load_dataset(spec, maps)
    assert dataset.vocabulary is not None
    check_dataset(dataset)
    for path in [record.parsing for record in dataset.train if record.parsing is not None]:
        labels = read_map(path, SIZE_HW, dataset.vocabulary)
        assert (labels.shape, read_confidence(path, SIZE_HW).shape) == (SIZE_HW, SIZE_HW)
        assert read_map_size(path) == read_stored_labels(path).shape


def _import(spec: str, given: Path, maps: Path, out: Path) -> None:
    try:
        report = parse_dataset(load_dataset(spec), str(given / PARSER), str(maps), out=out)
        assert report.written + len(report.missing) == 2
    finally:
        for path in (out / "train").rglob("*.png"):
            read_stored_labels(path)
    mapped = load_dataset(spec, out) if report.written else None
    assert mapped is None or mapped.vocabulary is not None
