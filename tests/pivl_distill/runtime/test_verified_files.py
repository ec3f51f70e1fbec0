"""Files of an export are used only with the size and hash of the manifest, and from its folder."""

from __future__ import annotations

import hashlib

import pytest

from pivl_distill.errors import PivlError
from pivl_distill.runtime.verified_files import check_file, read_verified

CONTENT = b"content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("check", [check_file, read_verified])
def test_size_hash_and_folder_are_checked(tmp_path, check):
    folder = tmp_path / "export"
    folder.mkdir()
    path, outside = folder / "file", tmp_path / "outside"
    with pytest.raises(PivlError, match="is missing but in the manifest"):
        check(path, 7, DIGEST)
    outside.write_bytes(CONTENT)
    path.symlink_to(outside)
    with pytest.raises(PivlError, match="is a link to outside of its folder"):
        check(path, 7, DIGEST)
    path.unlink()
    path.write_bytes(CONTENT)
    check(path, 7, DIGEST)
    with pytest.raises(PivlError, match="is truncated: 7 of 8 bytes"):
        check(path, 8, DIGEST)
    for size, digest in ((6, DIGEST), (7, DIGEST[::-1])):
        with pytest.raises(PivlError, match="is not the file its manifest describes"):
            check(path, size, digest)


def test_verified_contents_are_returned(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    assert read_verified(tmp_path / "file", 7, DIGEST) == CONTENT
