"""File systems that list folders in another order, and a place with short runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import QUICK, succeed
from stopped_runs import EPOCHS


@pytest.fixture
def reversed_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that lists folders in the opposite of their names' order."""
    scandir = os.scandir

    @contextmanager
    def backwards(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", backwards)


@pytest.fixture(scope="session")
def workplace(make_once: Callable[[str, Callable[[], None]], Path]) -> Path:
    """A folder with a teach run, and an uninterrupted student run."""

    def make() -> None:
        succeed("teach", *QUICK)
        succeed("student", *QUICK, *EPOCHS, "-o", "unstopped")

    return make_once("workplace", make)
