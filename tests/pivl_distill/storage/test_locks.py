"""Locks: one holder, short waits, no file left behind, systems without locks."""

import time

import pytest
from filelock import FileLock

from pivl_distill.errors import PivlError
from pivl_distill.storage.locks import locked, locked_folder


def test_lock_has_one_holder(tmp_path):
    file = tmp_path / "folder" / "lock"
    with locked(file, "never"), pytest.raises(PivlError, match="taken"), locked(file, "taken"):
        pass
    with locked(file, "never"):
        pass


def test_lock_that_is_held_for_a_moment_is_waited_for(tmp_path):
    """Of two runs that begin at once, one asks whether the other is going on."""
    other, tries = FileLock(tmp_path / "lock"), []
    other.acquire()

    def release(_seconds):
        tries.append(_seconds)
        other.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", release)
        with locked(tmp_path / "lock", "refused"):
            pass
    assert len(tries) == 1


def test_lock_of_a_folder_leaves_no_file(tmp_path):
    folder = tmp_path / "folder"
    with (
        locked_folder(folder, "never"),
        pytest.raises(PivlError, match="taken"),
        locked_folder(folder, "taken"),
    ):
        pass
    assert list(folder.iterdir()) == []


def test_system_without_locks_is_an_os_error(tmp_path, monkeypatch):
    def no_flock(*_args, **_options):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.FileLock.acquire", no_flock)
    with pytest.raises(OSError, match="locks"), locked(tmp_path / "lock", "never"):
        pass
