"""Atomic writes: the old file or the new one, and nothing else in the folder."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import (
    atomic_write,
    check_writable,
    is_empty,
    locked,
    remove_partial,
    sha256,
    write_bytes,
    write_json,
    write_text,
)


def test_bytes_are_written_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_an_old_file_is_replaced_not_written_into(tmp_path):
    path, link = tmp_path / "file", tmp_path / "other name of the old file"
    path.write_text("old")
    os.link(path, link)
    write_text(path, "new")
    assert (path.read_text(), link.read_text()) == ("new", "old")


@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_a_failing_write_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.chmod" if step == "chmod" else "os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_what_reaches_the_disk_is_there_before_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave a name without its bytes, or without the name."""
    done = []
    monkeypatch.setattr("os.fsync", lambda handle: done.append(os.fstat(handle).st_size))
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda *paths: (done.append("renamed"), replace(*paths)))
    write_bytes(tmp_path / "file", b"12345")
    assert done[:2] == [5, "renamed"]
    assert len(done) == 2 + (os.name == "posix")  # the folder comes last


def test_what_killed_writes_left_is_found_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "a" / "kept.partial", "a file of somebody's")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("pathlib.Path.unlink", lambda *_args, **_kwargs: None)
        for path in (tmp_path / "file", tmp_path / "a" / "file"):
            with pytest.raises(KeyboardInterrupt):
                write_text(path, "text")
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["kept.partial"]


def test_others_may_read_what_is_written(tmp_path):
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_json_is_indented_utf8_with_a_final_newline(tmp_path):
    write_json(tmp_path / "file.json", {"π": [1, None], "path": "ü"})
    raw = (tmp_path / "file.json").read_bytes()
    assert raw.endswith(b"}\n")
    assert "π".encode() in raw
    assert raw.count(b"\n  ") > 1
    assert json.loads(raw) == {"π": [1, None], "path": "ü"}


def test_json_that_cannot_be_written_changes_nothing(tmp_path):
    write_json(tmp_path / "file.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"tensor": object()})
    assert json.loads((tmp_path / "file.json").read_text()) == 1


def test_a_block_that_fails_changes_nothing(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text((tmp_path / "missing").read_text())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_sha256_of_a_file_longer_than_one_block(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_place_that_takes_no_file_is_known_before_there_is_one(tmp_path):
    check_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PivlError, match=r"Nothing can be written to '.*below' \(.+\); "):
        check_writable(tmp_path / "file" / "below")


def test_a_lock_has_one_holder(tmp_path):
    file = tmp_path / "folder" / "lock"
    with locked(file, "never"), pytest.raises(PivlError, match="taken"), locked(file, "taken"):
        pass
    with locked(file, "never"):
        pass


def test_a_folder_is_unused_with_what_others_left_behind(tmp_path):
    assert is_empty(tmp_path / "nowhere")
    for name in (".lock", ".a.json.x1.partial"):
        (tmp_path / name).touch()
    assert is_empty(tmp_path)
    (tmp_path / "a.json").touch()
    assert not is_empty(tmp_path)
