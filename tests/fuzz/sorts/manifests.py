"""Tables of a user-defined data set, as CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import damaged, edited, renamed
from fuzz.sorts.data_sets import look_at
from fuzz.uses import picture
from pivl_distill.data.datasets import load_dataset

COLUMNS = ("path", "pid", "cam", "split", "parsing")
_TOKENS = (
    b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"../../etc/passwd", b"C:\\x", b"[" * 2000,
    b"x" * 200_000, b"NaN", b"1e999", b"{", b"train", b"\xef\xbb\xbf", b";", "²".encode(),
)  # fmt: skip
_QUERIES = ("", "", "", "?root=.", "?root=/", "?root=images", "?root=~nobody", "?root=", "?rot=x")


def cases() -> st.SearchStrategy[Case]:
    """A table of four images with edited cells or damaged bytes, and their folder."""
    images = {f"images/{number}.png": picture("PNG", seed=number) for number in range(4)}
    images |= {f"maps/{number}.png": picture("PNG", "P") for number in range(2)}
    images["maps/parsing.json"] = b'{"vocabulary": "lip20"}'
    splits = ("train", "train", "query", "gallery")
    rows = [
        {
            "path": f"images/{n}.png",
            "pid": n // 2 + 5,
            "cam": f"c{n}",
            "split": split,
            "parsing": "",
        }
        for n, split in enumerate(splits)
    ]
    for number in range(2):
        rows[number]["parsing"] = f"maps/{number}.png"
    trees, queries = renamed(images, 1), st.sampled_from(_QUERIES)
    tables = _tables("manifest.csv", _as_csv, rows) | _tables("manifest.jsonl", _as_lines, rows)
    return st.builds(
        lambda tree, table, query: Case(tree | table, {"file": next(iter(table)), "query": query}),
        trees,
        tables,
        queries,
    )


def _tables(
    name: str, dump: Any, rows: list[dict[str, Any]]
) -> st.SearchStrategy[dict[str, bytes]]:
    texts = edited(rows).map(dump)
    return (texts | damaged(dump(rows), _TOKENS)).map(lambda text: {name: text})


def _as_csv(rows: Any) -> bytes:
    """CSV of whatever the edited rows are; cells that are no text are written as Python does."""
    buffer = io.StringIO()
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if row[key] is None else str(row[key]) for key in row})
    return buffer.getvalue().encode(errors="surrogatepass")


def _as_lines(rows: Any) -> bytes:
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(map(json.dumps, rows)).encode()


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Check the data set as `pivl-distill check` does; its files are in the folder."""
    query = options["query"].replace("root=images", f"root={given}/images")
    spec = f"manifest:{given / options['file']}{query}"
    dataset = load_dataset(spec)
    look_at(dataset, spec, Path("/") if "root" in query else given)
