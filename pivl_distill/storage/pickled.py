"""What a file of torch.save holds besides tensors, found without unpickling it.

`torch.load` refuses such a file, because unpickling could run code. Here its pickle is only read as
a list of instructions, in order to say what stands in the way and how to save the tensors alone.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pivl_distill.storage.paths import shown

MAX_PICKLE_BYTES = 64 << 20
MAX_INSTRUCTIONS = 200_000
"""A pickle is read up to these limits, which state dicts do not reach."""
_LEGACY_PICKLES = 5
"""Pickles at the start of a file of torch before 1.6: three headers, the object, its keys."""
_OTHER_PROTOCOL = "Unsupported operand"
"""What torch says about an instruction that its own pickles do not have."""
_MODULE = "_modules"
"""A string that the pickle of every network has."""


@dataclass(frozen=True)
class Obstacle:
    """An object that is no tensor, and the strings of the pickle that holds it."""

    kind: str
    """Such as "a numpy scalar"."""
    key: str | None
    """The last string before it, usually its key in a dict."""
    strings: frozenset[str]

    def __str__(self) -> str:
        return self.kind if self.key is None else f"{self.kind} at {shown(self.key)}"


def find_obstacle(path: Path, refusal: str) -> Obstacle | None:
    """Return the object in a file of torch.save that `refusal`, torch's message, is about.

    A pickle of a protocol that torch does not read is one too. None if the message is about
    something else, or the file holds no pickle.
    """
    named = re.search(r"GLOBAL ([\w.]+)", refusal)
    if named is None and _OTHER_PROTOCOL not in refusal:
        return None
    pickles = list(_pickles(path))
    if named is None and not pickles:
        return None
    name, key = "" if named is None else named[1], None
    strings: list[str] = []
    for pickle in pickles:
        found, key = _find(pickle, name, strings)
        if found:
            break
    kind = _describe(name) if name else "objects of another pickle protocol"
    return Obstacle(kind, key, frozenset(strings))


def saving_command(path: Path, obstacle: Obstacle, wrappers: Sequence[str]) -> str:
    """Return the command that saves the state dict in `path` alone, in a file next to it.

    `wrappers` are the keys under which state dicts are kept, in order of preference. The command
    runs code that the file may hold.
    """
    target = path.with_name(f"{path.name.partition('.')[0]}.weights.pth")
    source, saved = (json.dumps(str(file), ensure_ascii=False) for file in (path, target))
    state = f'torch.load({source}, "cpu", pickle)'
    key = next((key for key in wrappers if key in obstacle.strings), None)
    state += "" if key is None else f'["{key}"]'
    state += ".state_dict()" if _MODULE in obstacle.strings else ""
    code = f"import pickle, torch; torch.save({state}, {saved})"
    return f"python -c {shlex.quote(code)}"


def _describe(name: str) -> str:
    if name.startswith("numpy.") and name.endswith(".scalar"):
        return "a numpy scalar"
    if name.startswith("numpy.") and name.endswith("._reconstruct"):
        return "a numpy array"
    return f"an object of {name[:80]}"


Instruction = tuple[pickletools.OpcodeInfo, object]


def _find(pickle: Sequence[Instruction], name: str, strings: list[str]) -> tuple[bool, str | None]:
    """Return whether a pickle mentions the global `name`, and the last string before it.

    Adds all of its strings to `strings`.
    """
    found, key = False, None
    for opcode, argument in pickle:
        if opcode.name in ("GLOBAL", "STACK_GLOBAL") and not found:
            inline = opcode.name == "GLOBAL"
            parts = str(argument).split(" ") if inline else strings[-2:]
            found = name in (".".join(parts), parts[-1])
            before = strings if inline else strings[:-2]
            key = before[-1] if found and before else None
        elif isinstance(argument, str) and opcode.name != "GLOBAL":
            strings.append(argument)
    return found, key


def _pickles(path: Path) -> Iterator[list[Instruction]]:
    """Yield the instructions of each pickle in a file, up to the limits."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                yield from _consecutive_pickles(file)
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl"):
                    with archive.open(entry) as file:
                        yield from _consecutive_pickles(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # the rest is no pickle


def _consecutive_pickles(file: IO[bytes]) -> Iterator[list[Instruction]]:
    start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    for _ in range(_LEGACY_PICKLES):
        instructions = itertools.islice(pickletools.genops(start), MAX_INSTRUCTIONS)
        yield [(opcode, argument) for opcode, argument, _ in instructions]
