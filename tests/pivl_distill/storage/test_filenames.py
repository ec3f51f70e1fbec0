"""Names of files as text."""

from __future__ import annotations

import doctest

from pivl_distill.storage import filenames
from pivl_distill.storage.filenames import utf8_name


def test_doctest_examples_pass() -> None:
    failed, attempted = doctest.testmod(filenames)
    assert (failed, attempted > 0) == (0, True)


def test_names_that_are_utf8_stay() -> None:
    assert utf8_name("ü→人.jpg") == "ü→人.jpg"
