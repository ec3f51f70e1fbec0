"""Errors for users: an unknown name is answered with the nearest and with all that are known."""

from __future__ import annotations

import doctest

from pivl_distill import errors
from pivl_distill.errors import PivlError, VerificationError, unknown_name


def test_the_examples_of_the_module_hold():
    failed, tried = doctest.testmod(errors)
    assert (failed, tried > 0) == (0, True)


def test_a_near_name_is_suggested_and_all_are_listed_in_order():
    error = unknown_name("tier", "tinny", iter(["tiny", "hard", "default"]))
    assert isinstance(error, PivlError)
    expected = "Unknown tier 'tinny'; did you mean 'tiny'? Known: default, hard, tiny."
    assert str(error) == expected


def test_nothing_is_suggested_where_nothing_is_near():
    error = unknown_name("tier", "xyz", ["tiny", "hard"])
    assert str(error) == "Unknown tier 'xyz'. Known: hard, tiny."


def test_a_failed_verification_exits_otherwise_than_a_mistake():
    assert PivlError.exit_code == 2
    assert VerificationError.exit_code == 3
    assert issubclass(VerificationError, PivlError)
