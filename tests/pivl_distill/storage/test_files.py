"""Atomic writes leave the old file or the new one, and nothing else in the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import (
    append_bytes,
    atomic_folder,
    atomic_write,
    check_writable,
    is_empty,
    remove_abandoned,
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


def unwritable(tmp_path: Path) -> dict[str, Path]:
    """Paths of files that cannot be written, also not by root; the keys say why."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere" / "x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "below a file": tmp_path / "file" / "a",
        "far below a file": tmp_path / "file" / "a" / "b",
        "a folder": tmp_path / "folder",
        "below a broken link": tmp_path / "broken" / "a",
        "below links in a circle": tmp_path / "loop" / "a",
        "name too long": tmp_path / ("n" * 300),
        "temporary name too long": tmp_path / ("n" * 250),
        "no such system folder": Path("/proc/nowhere/a"),
    }


@pytest.mark.parametrize(
    "why",
    [
        "below a file",
        "far below a file",
        "a folder",
        "below a broken link",
        "below links in a circle",
        "name too long",
        "temporary name too long",
        "no such system folder",
    ],
)
def test_unwritable_file_is_refused(tmp_path, why):
    path = unwritable(tmp_path)[why]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PivlError, match=r"Cannot write to '.*' \(.+\); choose another path\.$"):
        check_writable(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_writable_places_are_left_as_they_are(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name in ("old", "new", "a/b/new", "link"):
        check_writable(tmp_path / name)
    check_writable(tmp_path, folder=True)
    check_writable(tmp_path / "a" / "b", folder=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old").read_text() == "old"


def test_processes_that_check_the_same_place_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Each of several processes checks the place, and removes what killed ones left of it."""
    monkeypatch.setattr(os, "fsync", lambda handle: remove_abandoned(tmp_path / "maps"))
    check_writable(tmp_path / "maps", folder=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_abandoned_until_it_has_its_name(tmp_path, monkeypatch):
    """Another process looks for what killed ones left while the file is synced to disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: remove_abandoned(tmp_path / "map"))
    write_bytes(tmp_path / "map", b"new")
    assert (tmp_path / "map").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["file", "file/a", "link"])
def test_unwritable_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PivlError, match=r"is not a folder|Not a directory"):
        check_writable(tmp_path / name, folder=True)


def test_folder_must_be_utf8_and_files_need_not(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    check_writable(tmp_path / name / "features.npz")
    with pytest.raises(PivlError, match=r"not UTF-8, .*; choose another path"):
        check_writable(tmp_path / name / "run", folder=True)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk_is_found_before_the_work(tmp_path, monkeypatch, call):
    """An empty file often fits on a full disk; some file systems report it when they sync."""

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"os.{call}", full)
    with pytest.raises(PivlError, match="No space left on device"):
        check_writable(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_limit_on_file_sizes_is_found_before_the_work(tmp_path):
    """The system writes as much as is allowed first."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(PivlError, match="File too large"):
            check_writable(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_error_of_a_full_disk_names_the_file_or_folder(tmp_path):
    with (
        pytest.raises(OSError, match="No space left") as raised,
        atomic_write(tmp_path / "file"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "file")
    with (
        pytest.raises(OSError, match="No space left") as raised,
        atomic_folder(tmp_path / "folder"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "folder")


def test_folder_that_is_removed_meanwhile_is_reported(tmp_path):
    path = tmp_path / "a" / "file"
    with pytest.raises(FileNotFoundError) as raised, atomic_write(path):
        shutil.rmtree(path.parent)
    assert raised.value.filename == str(path)


def test_name_that_is_not_utf8_is_escaped(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_json(tmp_path / "file.json", {"name": name, name: 1})
    raw = (tmp_path / "file.json").read_bytes()
    assert b'"caf\\udce9.jpg"' in raw
    assert json.loads(raw.decode()) == {"name": name, name: 1}


def test_folder_appears_complete_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "a" / "folder") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "a" / "folder").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["folder"]
    assert (tmp_path / "a" / "folder").stat().st_mode & 0o777 == 0o755
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "b" / "folder"):
        raise KeyboardInterrupt
    assert list((tmp_path / "b").iterdir()) == []


def test_first_of_two_folders_is_kept(tmp_path):

    def make(name: str, other: str | None = None) -> None:
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / name).touch()
            if other:
                make(other)

    with pytest.raises(OSError, match="not empty"):
        make("second", "first")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "first"]


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


@contextmanager
def limited_file_size(limit: int) -> Iterator[None]:
    """Files can have this many bytes: what is beyond is refused, after a part has been written."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_are_appended(tmp_path):
    path = tmp_path / "lines"
    append_bytes(path, b"one\n")
    append_bytes(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("content", [b"complete line\n", b"", None])
def test_a_line_that_does_not_fit_leaves_no_part_of_it(tmp_path, content):
    path = tmp_path / "lines"
    if content is not None:
        path.write_bytes(content)
    limit = len(content or b"") + 5
    with limited_file_size(limit), pytest.raises(OSError, match=r"lines'") as caught:
        append_bytes(path, b"a longer line\n")
    assert caught.value.errno == errno.EFBIG
    assert (path.read_bytes() if path.exists() else None) == content


def write_and_die(path, folder):
    with (atomic_folder if folder else atomic_write)(path) as temporary:
        (temporary / "part" if folder else temporary).write_text("a part")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_removed(tmp_path, folder):
    path, other = tmp_path / "out[1].npz", tmp_path / ".out[1].npz.mine"
    other.touch()
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path, folder))
    process.start()
    process.join()
    (left,) = {*tmp_path.iterdir()} - {other}
    assert left.suffix == (".part" if folder else ".partial")
    remove_abandoned(path)
    assert [*tmp_path.iterdir()] == [other]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs the locks of POSIX")
@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_what_is_being_written_is_not_removed(tmp_path, write):
    path = tmp_path / "out"
    with write(path) as temporary:
        remove_abandoned(path)
        assert temporary.exists()
    assert path.exists()
