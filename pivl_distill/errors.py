"""Errors that a user can fix: the message says what is wrong, where, and what to do.

The command line prints them without a traceback and exits with `exit_code`. Programming errors are
ordinary exceptions; their traceback goes to a crash report.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_SHOWN = 80
"""Characters of an unknown name that a message shows; it may come from a hostile file."""
MAX_REASON = 400
"""Characters of what a library says about a file."""
MAX_LISTED = 5
"""Values of a file that a message names."""


_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""Characters that a terminal obeys instead of showing them, except tab and new line."""


def printable(text: str) -> str:
    """Return a message with escapes in place of control characters, which a file name may hold.

    >>> printable("crop\\x1b[2J.jpg")
    'crop\\\\x1b[2J.jpg'
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class PivlError(Exception):
    """An error that the user can fix; the message says what, where and how."""

    exit_code = 2
    collectable = True
    """Whether `Problems` may go on with other checks; False if this process cannot go on."""

    def __str__(self) -> str:
        return printable(super().__str__())


class VerificationError(PivlError):
    """An artifact was written but its outputs differ from those of its source: do not deploy it."""

    exit_code = 3


class UnverifiedError(PivlError):
    """An artifact was written but could not be verified, because it cannot run on this machine."""

    exit_code = 4


def raise_worst(*checks: Callable[[], None]) -> None:
    """Make all checks, then raise the PivlError of the worst: what failed before what is unknown.

    Its message is that of all of them.
    """
    errors = []
    for check in checks:
        try:
            check()
        except PivlError as error:
            errors.append(error)
    if errors:
        raise type(min(errors, key=lambda error: error.exit_code))(" ".join(map(str, errors)))


class DivergenceError(PivlError):
    """Training has diverged: what a step computed is not finite."""

    def __init__(self, message: str, setting: str) -> None:
        """`setting` is the name of the one to change first."""
        super().__init__(message)
        self.setting = setting


_DISK = "Free disk space, or use another folder."
_PERMISSION = "Check its permissions, or use another folder."
_OS_REMEDIES = {
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`), or use another folder.",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENOENT: "It may have been moved or removed while the command was running.",
    errno.EMFILE: "Raise the limit on open files: `ulimit -n 4096`.",
    errno.ENOLCK: "Use a folder on a file system with locks.",
}


def explain_os_error(error: OSError) -> PivlError | None:
    """Return the error for what the system refused, such as a full disk or a file that is gone.

    None for an OSError without a system error number: libraries raise it for other reasons too.

    >>> str(explain_os_error(OSError(errno.ENOSPC, "No space left on device", "a.bin")))
    "Cannot read or write 'a.bin': No space left on device. Free disk space, or use another folder."
    """
    if error.errno is None:
        return None
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if _is_path(name)]
    files = " → ".join(f"'{name}'" for name in names)
    remedy = _OS_REMEDIES.get(error.errno, "")
    if error.errno == errno.ENOENT and any(Path(name).is_symlink() for name in names):
        remedy = "It is a link to a file that does not exist."
    return PivlError(
        f"Cannot read or write {files or 'a file'}: {error.strerror or error}. {remedy}".rstrip()
    )


def _is_path(name: object) -> bool:
    """Whether it is no file descriptor, and given."""
    return isinstance(name, str | bytes | os.PathLike)


class ProblemsError(PivlError):
    """All problems of some inputs in one message."""

    def __init__(self, found: Iterable[str]) -> None:
        self.found = tuple(found)
        text = "\n".join(f"  {number}. {line}" for number, line in enumerate(self.found, start=1))
        count = len(self.found)
        super().__init__(
            self.found[0] if count == 1 else f"{count} problems; nothing was started:\n{text}"
        )


class Problems:
    """What is wrong with the inputs of long work, collected so that one error lists all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return `check(*args, **kwargs)`; a PivlError becomes a problem, and None is returned."""
        try:
            return check(*args, **kwargs)
        except ProblemsError as error:
            self.add(*error.found)
        except PivlError as error:
            if not error.collectable:
                raise
            self.add(str(error))
        return None

    def add(self, *problems: str) -> None:
        """Add problems, each a sentence; one that was found before is not listed twice."""
        self.found += [problem for problem in problems if problem not in self.found]

    def error(self) -> ProblemsError:
        """Return the error that lists the problems."""
        return ProblemsError(self.found)

    def refuse(self) -> None:
        """Raise PivlError if there are any problems."""
        if self.found:
            raise self.error()


def one_line(error: BaseException) -> str:
    """Return what an exception of a library says, in one line; its type if it says nothing.

    >>> one_line(ValueError("no header\\n  in line 3"))
    'no header in line 3'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _place(path: Iterable[object]) -> str:
    place = ".".join(map(str, path))[:MAX_SHOWN]
    return place if place.isprintable() else repr(place)


def list_mistakes(mistakes: Iterable[tuple[Iterable[object], str]]) -> str:
    """Return indented lines "place: what is wrong" about values in a file, the first `MAX_LISTED`.

    A mistake is the path of a value, as pydantic's errors have it, and a message.

    >>> list_mistakes([(("input", "size_hw", 0), "not a number")])
    '  input.size_hw.0: not a number'
    """
    lines = [f"  {_place(path)}: {text}" for path, text in mistakes]
    more = [f"  … and {len(lines) - MAX_LISTED} more"] * (len(lines) > MAX_LISTED)
    return "\n".join([*lines[:MAX_LISTED], *more])


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PivlError:
    """Return the error for a name that is not in `known`: it lists the names and the nearest one.

    >>> str(unknown_name("tier", "defualt", ["default", "hard"]))
    "Unknown tier 'defualt'; did you mean 'default'? Known: default, hard."
    """
    names = sorted(known)
    name = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
    return PivlError(
        f"Unknown {kind} {name!r}{did_you_mean(name, names)} Known: {', '.join(names)}."
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known name, or "." if none is near.

    >>> did_you_mean("resnet81", ["resnet18", "vgg16"])
    "; did you mean 'resnet18'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else "."
