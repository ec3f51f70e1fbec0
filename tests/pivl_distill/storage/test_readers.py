"""Files are read up to a limit; JSON is an object of few levels."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH
from pivl_distill.storage.readers import check_size, parse_json, read_bytes, read_json, read_text


def test_contents_up_to_the_limit_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfabc")
    assert check_size(tmp_path / "file", 6) == 6
    assert read_bytes(tmp_path / "file", 6) == b"\xef\xbb\xbfabc"
    assert read_text(tmp_path / "file", 6) == "abc"
    with pytest.raises(PivlError, match=r"file has 0\.0 MiB, but such a file has at most"):
        read_bytes(tmp_path / "file", 5)


def test_reading_takes_memory_for_the_file_and_not_for_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "file", 2**31) == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_devices_pipes_and_loops_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "loop", "zero", "missing", ".", "a\0b"):
        with pytest.raises(PivlError, match=r"There is no file|is a folder, device or pipe"):
            read_bytes(tmp_path / name, 9)


def test_text_must_be_utf8(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(PivlError, match="is not UTF-8 text"):
        read_text(tmp_path / "file", 9)


def test_sparse_file_of_a_terabyte_is_refused_at_once(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        PivlError, match=r"has 1,048,576\.0 MiB, but such a file has at most 16 MiB"
    ):
        read_json(tmp_path / "file", "a manifest")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' + "[" * 64 + "]" * 64 + "}",
        '{"a": ' + "9" * 10_000 + "}",
        '{"a": "\ud800',
    ],
)
def test_only_small_objects_are_accepted(tmp_path, text):
    (tmp_path / "file").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PivlError, match=r"file is not a manifest: ") as raised:
        read_json(tmp_path / "file", "a manifest")
    assert len(str(raised.value)) < 500


def test_json_of_the_deepest_level_is_read(tmp_path):
    text = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(text) is not None
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parse_json(f"[{text}]")
    assert MAX_JSON_BYTES == 16 * 2**20
