"""Strategies that damage valid inputs: values in trees, bytes of files, texts of names."""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    "", " ", "\0", "\n", "a\nb", "\x1b[31mred", "é", "人", "\u202e", "\udce9", "..", "../../passwd",
    "/etc/passwd", "C:\\x", "~nobody/x", "[/bold]", "[red]", "nan", "1e999", "9" * 30, "-1", "007",
    "x" * 300, "x" * 5000, "%s{}", "null", "٣", "²", "true",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 2, 255, 256, 2**15, 2**16, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64,
    10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
_DEPTHS = (3, 40, 90, 300)

_TORCH_PATTERNS = (0x7FC00000, 0x7F800000, 0xFF800000, 0x7E007E00, 0x7C007C00, 0x7F7FFFFF)
"""float32 and float16: NaN, infinities, the largest."""


def odd_texts() -> st.SearchStrategy[str]:
    """Texts that break parsers, file systems and terminals."""
    return st.sampled_from(ODD_TEXTS) | st.text(max_size=8)


def odd_values() -> st.SearchStrategy[Any]:
    """JSON values of every type, extreme numbers and deep nesting among them."""
    plain = st.sampled_from([None, True, False, [], {}, *ODD_NUMBERS]) | odd_texts()
    flat = st.lists(plain, max_size=4) | st.dictionaries(odd_texts(), plain, max_size=3)
    return plain | flat | st.builds(_nested, st.sampled_from(_DEPTHS), st.booleans())


def _nested(depth: int, objects: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


@st.composite
def edited(draw: st.DrawFn, tree: Any, most: int = 3) -> Any:
    """Draw a copy of a JSON value with up to `most` edits of values inside it."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(0, most))):
        tree = _edit(draw, tree)
    return tree


def _edit(draw: st.DrawFn, tree: Any) -> Any:
    path = draw(st.sampled_from(_paths(tree)))
    if not path:
        return draw(odd_values()) if draw(st.integers(0, 9)) == 9 else tree
    *parents, key = path
    parent = tree
    for step in parents:
        parent = parent[step]
    kind = draw(st.sampled_from(["replace", "replace", "scale", "remove", "rename", "copy"]))
    value = parent[key]
    if kind == "scale" and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = value * draw(st.sampled_from([-1, 0, 2, 1000, 0.5]))
    elif kind == "remove":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw(odd_texts())] = parent.pop(key)
    elif kind == "copy":
        other = draw(st.sampled_from(_paths(tree)))
        parent[key] = copy.deepcopy(_at(tree, other))
    else:
        parent[key] = draw(odd_values())
    return tree


def _at(tree: Any, path: Sequence[Any]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _paths(tree: Any, path: tuple[Any, ...] = (), depth: int = 8) -> list[tuple[Any, ...]]:
    """Return the path of every value in a tree, down to a depth; the tree itself is `()`."""
    items: Sequence[tuple[Any, Any]] = ()
    if depth and isinstance(tree, dict):
        items = list(tree.items())
    elif depth and isinstance(tree, list):
        items = list(enumerate(tree[:20]))
    return [path] + [p for key, value in items for p in _paths(value, (*path, key), depth - 1)]


@st.composite
def damaged(draw: st.DrawFn, data: bytes, others: Sequence[bytes] = (b"",)) -> bytes:
    """Draw a copy of a file with bits flipped, parts cut, repeated or spliced, numbers replaced.

    `others` are what may be inserted: parts of the format, or whole files to splice.
    """
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 64, 1000, 10**6]))
        kind = draw(
            st.sampled_from(["flip", "number", "cut", "drop", "repeat", "insert", "splice"])
        )
        data = _EDITS[kind](draw, data, at, length, others)
    return data


_ByteEdit = Callable[[st.DrawFn, bytes, int, int, Sequence[bytes]], bytes]


def _flip(draw: st.DrawFn, data: bytes, at: int, _: int, __: Sequence[bytes]) -> bytes:
    if at == len(data):
        return data
    return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]


def _number(draw: st.DrawFn, data: bytes, at: int, _: int, __: Sequence[bytes]) -> bytes:
    numbers = [n for n in ODD_NUMBERS if isinstance(n, int) and -(2**63) <= n < 2**64]
    value = draw(st.sampled_from([*numbers, *_TORCH_PATTERNS])) % 2**64
    packed = struct.pack(draw(st.sampled_from("<>")) + "Q", value)
    size = draw(st.sampled_from([1, 2, 4, 8]))
    packed = packed[:size] if draw(st.booleans()) else packed[-size:]
    at -= at % size
    return data[:at] + packed + data[at + size :]


_EDITS: Mapping[str, _ByteEdit] = {
    "flip": _flip,
    "number": _number,
    "cut": lambda draw, data, at, length, others: data[:at],
    "drop": lambda draw, data, at, length, others: data[:at] + data[at + length :],
    "repeat": lambda draw, data, at, length, others: (
        data[: at + length] + data[at : at + length] * draw(st.sampled_from([1, 2, 50])) + data[at:]
    )[: len(data) + 2**20],
    "insert": lambda draw, data, at, length, others: (
        data[:at] + draw(st.sampled_from(list(others)) | st.binary(max_size=12)) + data[at:]
    ),
    "splice": lambda draw, data, at, length, others: (
        data[:at] + draw(st.sampled_from(list(others)))[at : at + max(length, 1)] + data[at:]
    ),
}


def edited_json(
    data: bytes, tokens: Sequence[bytes] = (b"[", b"{", b'"', b"1e999", b"\xff")
) -> st.SearchStrategy[bytes]:
    """Draw JSON with edited values or damaged bytes, or the valid file."""
    texts = edited(json.loads(data)).map(lambda value: json.dumps(value).encode())
    return st.just(data) | texts | texts | damaged(data, tokens)


def edited_safetensors(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw a safetensors file with an edited header, edited metadata of ours, or damaged bytes."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    headers = edited(header, 2).map(json.dumps)
    ours = header.get("__metadata__", {}).get("pivl-distill")
    if ours is not None:
        metadata = edited(json.loads(ours)).map(
            lambda value: json.dumps(
                {**header, "__metadata__": {"pivl-distill": json.dumps(value)}}
            )
        )
        headers = headers | metadata | metadata
    bodies = st.just(body) | st.just(body) | damaged(body)
    files = st.builds(_join, headers, bodies)
    return files | files | files | damaged(data)


def _join(header: str, body: bytes) -> bytes:
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + body


@st.composite
def renamed(draw: st.DrawFn, files: Mapping[str, bytes], most: int = 3) -> dict[str, bytes]:
    """Draw a copy of a tree with files renamed, moved, removed, emptied or added."""
    tree = dict(files)
    for _ in range(draw(st.integers(0, most))):
        if not tree:
            break
        name = draw(st.sampled_from(sorted(tree)))
        *folders, last = name.split("/")
        kind = draw(st.sampled_from(["file", "folder", "digits", "remove", "content", "add"]))
        if kind == "add":
            place = "/".join(folders)
            tree[f"{place}/{draw(st.sampled_from(_ADDED))}".lstrip("/")] = tree[name]
            continue
        content = tree.pop(name)
        if kind == "content":
            tree[name] = draw(st.sampled_from([b"", b"no image", content[: len(content) // 2]]))
        elif kind == "digits":
            digits = draw(
                st.sampled_from(["", "-", "-1", "0", "9" * 18, "9" * 19, "٣", "²", "1_0"])
            )
            at = draw(st.integers(0, len(last)))
            tree["/".join([*folders, last[:at] + digits + last[at:]])] = content
        elif kind == "file":
            tree["/".join([*folders, _component(draw, last)])] = content
        elif kind == "folder":
            tree["/".join([*folders, _component(draw, "more"), last])] = content
    return tree


_ADDED = (
    "Thumbs.db", ".DS_Store", "._x.jpg", "@eaDir/x.jpg", "__MACOSX/x.jpg", "a.JPG",
    "b.webp", "c.tif", "deeper/d.jpg", "x.gif", "notes.txt", "folder.jpg/", "parsing/",
    "0001/", "name with spaces.jpg",
)  # fmt: skip


def _component(draw: st.DrawFn, name: str) -> str:
    """Draw a name for a file or folder: the old one with something odd in it, never a path."""
    odd = draw(odd_texts()).replace("/", "∕").replace("\0", "␀")
    at = draw(st.integers(0, len(name)))
    new = name[:at] + odd + name[at:]
    return new if new not in ("", ".", "..") else "x"
