"""The form of error messages: readable sentences that name the place, without internals."""

from __future__ import annotations

import re
from pathlib import Path

from fuzz.case import Case
from pivl_distill.storage.paths import shown

MAX_LINE, MAX_LINES = 1_000, 60
"""Characters of a line, and lines."""
_INTERNALS = re.compile(
    r'Traceback \(most recent|  File "|\bobject at 0x|^\w*(Error|Exception)\b', re.M
)
_LINES = re.compile(r"[^\n]+((\n  [^\n]*)+(\n[^ \n]+[^\n]*)?)?")
"""One line, or a heading, an indented list, and perhaps a last sentence."""
_NO_MEMORY = re.compile(r"(into|out of) memory|memory of this|allocat|bad.?alloc", re.I)


def fault_of_message(text: str, given: Path, case: Case) -> str:
    """Return what is wrong with the message of a PivlError about a case; "" if nothing is."""
    if not text.strip():
        return "is empty"
    lines = text.splitlines()
    if len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
        return "is too long"
    if _INTERNALS.search(text):
        return "shows internals"
    if any(ord(char) < 32 and char not in "\n\t" for char in text):
        return "holds control characters"
    if _NO_MEMORY.search(text):
        return "ran out of memory"
    if not _LINES.fullmatch(text) and not any("\n" in name for name in case.files):
        return "has several lines that are no list"
    if not any(place in text for place in _places(given, case)):
        return "names no place"
    return ""


def _places(given: Path, case: Case) -> list[str]:
    """Return names by which a message may say where the problem is."""
    names = [str(given.parent), "--set"]
    names += [part for name in case.files for part in name.split("/")]
    names += map(str, case.options.get("names", ()))
    return [*filter(None, names), *(shown(name).strip("'") for name in names if name)]
