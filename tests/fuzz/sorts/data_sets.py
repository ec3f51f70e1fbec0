"""Data sets on disk: names of files and folders, lists, in every layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import damaged, edited_json, renamed
from fuzz.uses import picture
from pivl_distill.app.report import print_check
from pivl_distill.data.check import check_dataset
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.market import MARKET_SPLITS
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.scan import scan_headers
from pivl_distill.data.unused import report_unused

_PATTERNS = (
    r"(?P<pid>\d+)_c(?P<cam>\d+)", r"(?P<pid>[^_]+)_", r"(?P<pid>-?\d+)(?P<cam>x)?", "(?P<pid>.*)",
    "(?P<pid", "(?P<pid>)", "(?P<cam>c.)", "(?P<pid>.)(?P<other>.)", "\\", "[", "", "%26",
)  # fmt: skip
_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")


def cases() -> st.SearchStrategy[Case]:
    """A small data set of a layout whose names are edited, and the options of its kind."""
    market = [_market("market1501"), _market("dukemtmc"), _market("occluded_duke")]
    return st.one_of(*market, _msmt17(), _folders(), _regex())


def _options(kind: str, query: str) -> dict[str, Any]:
    """Options of a case; a message may name the option of the query or its value."""
    return {"kind": kind, "query": query, "names": query.lstrip("?").split("=", 1)}


def _market_files() -> dict[str, bytes]:
    names = [f"{pid:04d}_c{camera}s1_{pid:06d}_00.jpg" for pid in (2, 7) for camera in (1, 2)]
    tree = {f"{MARKET_SPLITS[0]}/{name}": picture("JPEG", seed=n) for n, name in enumerate(names)}
    test = [name.replace("0002_", "0005_").replace("0007_", "-1_") for name in names]
    tree |= {f"{split}/{name}": picture("JPEG") for split in MARKET_SPLITS[1:] for name in test}
    return tree


def _market(kind: str) -> st.SearchStrategy[Case]:
    people = json.dumps({"people": {"2": {"hat": "red", "bag": None}}}).encode()
    described = st.none() | edited_json(people)

    def make(tree: dict[str, bytes], description: bytes | None) -> Case:
        extra = {} if description is None else {"synthetic.json": description}
        return Case(tree | extra, _options(kind, ""))

    return st.builds(make, renamed(_market_files()), described)


def _msmt17() -> st.SearchStrategy[Case]:
    images = {
        f"{folder}/000{pid}/000{pid}_000_0{camera}_0303morning_0015_{camera}.jpg": picture("JPEG")
        for folder in ("train", "test")
        for pid in (0, 1)
        for camera in (1, 2)
    }
    lines = {
        name: "".join(
            f"{path.partition('/')[2]} {int(path.split('/')[1])}\n"
            for path in images
            if path.startswith("train" if name in _LISTS[:2] else "test")
        ).encode()
        for name in _LISTS
    }
    tokens = [b"\n", b" ", b" 9" * 30, b"../../x_0_01_ 1", b"\xff", b"\\", b"/etc/x_0_01_ 0", b"\0"]

    def with_lists(tree: dict[str, bytes]) -> st.SearchStrategy[dict[str, bytes]]:
        lists = {name: st.just(text) | damaged(text, tokens) for name, text in lines.items()}
        return st.fixed_dictionaries(lists).map(lambda drawn: tree | drawn)

    trees = renamed(images, 1).flatmap(with_lists)
    queries = st.sampled_from(["", "?val=no", "?val=", "?val=maybe", "?vall=no", "?val"])
    return st.builds(lambda tree, q: Case(tree, _options("msmt17", q)), trees, queries)


def _folders() -> st.SearchStrategy[Case]:
    tree = {
        f"{split}/{pid}/{pid}_c{camera}_{number}.png": picture("PNG", seed=number)
        for split, pid in (("train", 3), ("train", 12), ("query", 20), ("gallery", 20))
        for camera, number in ((1, 0), (2, 1))
    }
    queries = st.just("") | st.sampled_from(_PATTERNS).map("?pattern={}".format)
    return st.builds(lambda files, q: Case(files, _options("folders", q)), renamed(tree), queries)


def _regex() -> st.SearchStrategy[Case]:
    tree = {
        f"{split}/{pid}_c{camera}.png": picture("PNG", seed=camera)
        for split, pid in (("train", 3), ("train", 12), ("query", 20), ("gallery", 20))
        for camera in (1, 2)
    }
    queries = st.sampled_from(_PATTERNS).map("?pattern={}".format)
    return st.builds(lambda files, q: Case(files, _options("regex", q)), renamed(tree), queries)


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Check the data set as `pivl-distill check` does."""
    spec = f"{options['kind']}:{given}{options['query']}"
    look_at(load_dataset(spec, allow_misnamed=True), spec, given)
    load_dataset(spec)


def look_at(dataset: ReIDDataset, spec: str, given: Path) -> None:
    """Report a data set, and assert that it names files of its folder only."""
    print_check(check_dataset(dataset))
    report_unused(dataset, spec)
    records = [record for split in dataset.splits.values() for record in split]
    assert dataset.train
    for record in records:
        assert record.path.resolve().is_relative_to(given.resolve())
        assert -(10**18) < record.pid < 10**18 + 10**5
    assert len(scan_headers(dataset.splits, dataset.root)) == len(records)
    json.dumps([dataset.metadata, dataset.test_fingerprint, dataset.summary()])
