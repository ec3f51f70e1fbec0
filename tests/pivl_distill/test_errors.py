"""An unknown name is reported with the nearest known name and the list of all."""

from __future__ import annotations

import doctest

from pivl_distill import errors
from pivl_distill.errors import PivlError, VerificationError, unknown_name


def test_doctest_examples_pass():
    failed, attempted = doctest.testmod(errors)
    assert (failed, attempted > 0) == (0, True)


def test_nearest_name_is_suggested_and_all_are_listed():
    error = unknown_name("tier", "tinny", iter(["tiny", "hard", "default"]))
    assert isinstance(error, PivlError)
    expected = "Unknown tier 'tinny'; did you mean 'tiny'? Known: default, hard, tiny."
    assert str(error) == expected


def test_no_suggestion_without_a_near_name():
    error = unknown_name("tier", "xyz", ["tiny", "hard"])
    assert str(error) == "Unknown tier 'xyz'. Known: hard, tiny."


def test_failed_verification_has_its_own_exit_code():
    assert PivlError.exit_code == 2
    assert VerificationError.exit_code == 3
    assert issubclass(VerificationError, PivlError)
