"""Atomic writes leave the old file or the new one, and nothing else in the folder."""

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


def test_missing_folder_is_created(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_old_file_is_replaced_not_overwritten(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link to the old file"
    path.write_text("old")
    os.link(path, link)
    write_text(path, "new")
    assert (path.read_text(), link.read_text()) == ("new", "old")


@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.chmod" if step == "chmod" else "os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_contents_are_synced_before_the_rename(tmp_path, monkeypatch):
    """Otherwise a power failure could leave a file without its contents."""
    calls = []
    monkeypatch.setattr("os.fsync", lambda handle: calls.append(os.fstat(handle).st_size))
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda *paths: (calls.append("renamed"), replace(*paths)))
    write_bytes(tmp_path / "file", b"12345")
    assert calls[:2] == [5, "renamed"]
    assert len(calls) == 2 + (os.name == "posix")  # the folder is synced last


def test_remove_partial_removes_only_partial_files(tmp_path, monkeypatch):
    write_text(tmp_path / "a" / "kept.partial", "a file of the user")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("pathlib.Path.unlink", lambda *_args, **_kwargs: None)
        for path in (tmp_path / "file", tmp_path / "a" / "file"):
            with pytest.raises(KeyboardInterrupt):
                write_text(path, "text")
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["kept.partial"]


def test_written_files_are_readable_by_others(tmp_path):
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_json_is_indented_utf8_with_final_newline(tmp_path):
    write_json(tmp_path / "file.json", {"π": [1, None], "path": "ü"})
    raw = (tmp_path / "file.json").read_bytes()
    assert raw.endswith(b"}\n")
    assert "π".encode() in raw
    assert raw.count(b"\n  ") > 1
    assert json.loads(raw) == {"π": [1, None], "path": "ü"}


def test_invalid_json_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "file.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"tensor": object()})
    assert json.loads((tmp_path / "file.json").read_text()) == 1


def test_failed_block_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text((tmp_path / "missing").read_text())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_sha256_of_several_blocks(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_check_writable_detects_an_unusable_path(tmp_path):
    check_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PivlError, match=r"Cannot write to '.*below' \(.+\); "):
        check_writable(tmp_path / "file" / "below")


def test_lock_has_one_holder(tmp_path):
    file = tmp_path / "folder" / "lock"
    with locked(file, "never"), pytest.raises(PivlError, match="taken"), locked(file, "taken"):
        pass
    with locked(file, "never"):
        pass


def test_folder_with_only_lock_and_partial_files_is_empty(tmp_path):
    assert is_empty(tmp_path / "nowhere")
    for name in (".lock", ".a.json.x1.partial"):
        (tmp_path / name).touch()
    assert is_empty(tmp_path)
    (tmp_path / "a.json").touch()
    assert not is_empty(tmp_path)


def test_json_with_a_number_that_is_not_finite_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(PivlError, match=r"was not written, .* not finite: retrieval\.mAP is nan"):
        write_json(path, {"retrieval": {"mAP": float("nan")}})
    assert json.loads(path.read_text()) == {"old": 1}
