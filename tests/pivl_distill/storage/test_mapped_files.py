"""Arrays of the cache: a file that changes while its array is in use is found."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.storage import mapped_files
from pivl_distill.storage.files import sha256
from pivl_distill.storage.mapped_files import ChangedFileError, check_unchanged, map_array

VALUES = np.arange(5000, dtype=np.int32).reshape(100, 50)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pixels.npy"
    np.save(path, VALUES)
    return path


def flip_a_bit(file: Path) -> None:
    """Change one bit of the last value, in place, as other programs do."""
    with file.open("rb+") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))


def test_array_has_the_values_and_can_be_written(file: Path) -> None:
    before = file.read_bytes()
    array = map_array(file, sha256(file))
    np.testing.assert_array_equal(array, VALUES)
    array[:] = 0
    assert file.read_bytes() == before
    check_unchanged()


def test_another_hash_is_refused(file: Path) -> None:
    digest = sha256(file)
    flip_a_bit(file)
    with pytest.raises(ValueError, match="has another hash"):
        map_array(file, digest)


def test_one_flipped_bit_is_found(file: Path) -> None:
    array = map_array(file, sha256(file))
    flip_a_bit(file)
    assert array[-1, -1] != VALUES[-1, -1]  # the change is visible: this is why it is looked for
    with pytest.raises(ChangedFileError, match=r"pixels\.npy' changed while .* Run the command"):
        check_unchanged()


def test_a_file_that_was_cut_is_found_without_reading_its_pages(file: Path) -> None:
    """Reading a page that is gone would kill the process."""
    array = map_array(file, sha256(file))
    os.truncate(file, 100)
    with pytest.raises(ChangedFileError):
        check_unchanged()
    del array


@pytest.mark.skipif(os.name != "posix", reason="other systems cannot remove an open file")
def test_eviction_and_other_dates_are_no_change(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = map_array(file, sha256(file))
    os.utime(file, (0, 0))
    check_unchanged()
    file.unlink()
    check_unchanged()
    monkeypatch.setattr(mapped_files, "sha256_of", lambda _: pytest.fail("hashed without need"))
    check_unchanged()
    np.testing.assert_array_equal(array, VALUES)


def test_arrays_that_are_gone_are_not_checked(file: Path) -> None:
    array = map_array(file, sha256(file))
    view = array[10:20, ::2]
    del array
    gc.collect()
    flip_a_bit(file)
    with pytest.raises(ChangedFileError):  # the view still shows the file
        check_unchanged()
    del view
    gc.collect()
    check_unchanged()
