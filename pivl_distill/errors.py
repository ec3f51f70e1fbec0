"""Errors that a user can fix: the message says what is wrong, where, and what to do.

The command line prints them without a traceback and exits with `exit_code`. Programming errors are
ordinary exceptions and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PivlError(Exception):
    """An error that the user can fix; the message says what, where and how."""

    exit_code = 2


class VerificationError(PivlError):
    """An artifact was written but its outputs differ from those of its source: do not deploy it."""

    exit_code = 3


class UnverifiedError(PivlError):
    """An artifact was written but could not be verified, because it cannot run on this machine."""

    exit_code = 4


class DivergenceError(PivlError):
    """Training has diverged: what a step computed is not finite."""

    def __init__(self, message: str, setting: str) -> None:
        """`setting` is the name of the one to change first."""
        super().__init__(message)
        self.setting = setting


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PivlError:
    """Return the error for a name that is not in `known`: it lists the names and the nearest one.

    >>> str(unknown_name("tier", "defualt", ["default", "hard"]))
    "Unknown tier 'defualt'; did you mean 'default'? Known: default, hard."
    """
    names = sorted(known)
    return PivlError(
        f"Unknown {kind} '{name}'{did_you_mean(name, names)} Known: {', '.join(names)}."
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known name, or "." if none is near.

    >>> did_you_mean("resnet81", ["resnet18", "vgg16"])
    "; did you mean 'resnet18'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else "."
