"""Errors a user can act on: what is wrong, where, and what to do instead.

The command line prints them without a traceback and exits with `exit_code`. Programming mistakes
are ordinary exceptions and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PivlError(Exception):
    """Something the user can put right; the message says what, where and how."""

    exit_code = 2


class VerificationError(PivlError):
    """An artifact was made but does not do what its source does; it must not be shipped."""

    exit_code = 3


class UnverifiedError(PivlError):
    """An artifact was made but cannot be run here, so that nobody knows yet what it does."""

    exit_code = 4


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PivlError:
    """The error for a name that a registry does not hold: nearest match and what is known.

    >>> str(unknown_name("tier", "defualt", ["default", "hard"]))
    "Unknown tier 'defualt'; did you mean 'default'? Known: default, hard."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return PivlError(f"Unknown {kind} '{name}'{hint} Known: {', '.join(names)}.")
