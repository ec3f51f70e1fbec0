"""An unknown name is reported with the nearest known name and the list of all."""

from __future__ import annotations

import doctest
import errno
import os
from pathlib import Path

import pytest

from pivl_distill import errors
from pivl_distill.distributed.process_group import PeerProcessError
from pivl_distill.errors import (
    PivlError,
    Problems,
    UnverifiedError,
    VerificationError,
    explain_os_error,
    list_mistakes,
    raise_worst,
    unknown_name,
)


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


def test_places_of_mistakes_are_one_line_each():
    listed = list_mistakes([(("a\nb", 3), "not a number"), (("x" * 300,), "unknown")])
    assert listed == f"  'a\\nb.3': not a number\n  {'x' * 80}: unknown"


def test_messages_hold_no_characters_that_a_terminal_obeys():
    text = "crop\x1b[2J\x07\u202e.jpg\x85: a\tb\nü人"
    shown = "crop\\x1b[2J\\x07\\u202e.jpg\\x85: a\tb\nü人"
    assert str(PivlError(text)) == str(VerificationError(text)) == shown
    assert "\\x1b" in str(unknown_name("column", "\x1b[2J", ["cam"]))


def test_failed_verification_has_its_own_exit_code():
    assert PivlError.exit_code == 2
    assert VerificationError.exit_code == 3
    assert issubclass(VerificationError, PivlError)


def test_broken_link_is_named(tmp_path):
    link = tmp_path / "0001_c1.jpg"
    link.symlink_to("/nowhere/0001_c1.jpg")
    with pytest.raises(OSError, match="No such file") as raised:
        link.read_bytes()
    sentence = f"'{link}': No such file or directory. It is a link to a file that does not exist."
    assert sentence in str(explain_os_error(raised.value))


@pytest.mark.parametrize("name", ["a/b", b"a/b", Path("a/b")])
def test_file_is_named_whatever_its_type(name):
    assert "'a/b': File too large. Raise" in str(
        explain_os_error(OSError(errno.EFBIG, "File too large", name))
    )


def test_both_files_are_named_and_descriptors_are_not(tmp_path):
    moved = OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")
    assert "'a' → 'b': Invalid" in str(explain_os_error(moved))
    written = OSError(errno.EIO, os.strerror(errno.EIO), 7)
    assert "write a file: Input/output error." in str(explain_os_error(written))


def test_error_of_a_library_is_not_one_of_the_system():
    assert explain_os_error(OSError("404 Client Error")) is None


def fail(message: str) -> None:
    raise PivlError(message)


def test_one_error_lists_all_problems_once():
    problems = Problems()
    problems.refuse()
    assert problems.attempt(lambda value: value + 1, value=1) == 2
    assert problems.attempt(fail, "No camera.") is None
    with pytest.raises(PivlError, match=r"^No camera\.$"):
        problems.refuse()
    for message in ("No room.", "No camera."):
        problems.attempt(fail, message)
    with pytest.raises(PivlError) as refused:
        problems.refuse()
    expected = "2 problems; nothing was started:\n  1. No camera.\n  2. No room."
    assert str(refused.value) == expected
    assert refused.value.exit_code == 2


def test_lists_of_problems_are_joined():
    inner, outer = Problems(), Problems()
    inner.add("One.", "Two.")
    outer.add("Zero.", "One.")
    outer.attempt(inner.refuse)
    assert outer.found == ["Zero.", "One.", "Two."]


def test_other_errors_are_not_collected():
    problems = Problems()
    with pytest.raises(ZeroDivisionError):
        problems.attempt(lambda: 1 / 0)

    def lose_a_peer() -> None:
        raise PeerProcessError("gone")

    with pytest.raises(PeerProcessError):
        problems.attempt(lose_a_peer)
    assert problems.found == []


def test_the_worst_of_several_checks_is_raised_with_all_messages():
    def fail(error):
        raise error

    raise_worst(lambda: None)
    checks = [
        lambda: fail(UnverifiedError("An engine.")),
        lambda: None,
        lambda: fail(VerificationError("A folder.")),
    ]
    with pytest.raises(VerificationError, match=r"An engine\. A folder\."):
        raise_worst(*checks)
