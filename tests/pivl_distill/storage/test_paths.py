"""Names in files stay in their folder, on every system."""

from __future__ import annotations

import pytest

from pivl_distill.storage.paths import check_relative, is_file, is_inside, plain_name, shown

ESCAPES = ["../a", "a/../../b", "/a", "//a/b", "C:a", "C:/a", "..", "a\\b", "..\\a", "a\0b"]


@pytest.mark.parametrize("name", ["model.onnx", ".hidden", "a b", "…", "a..b", "-"])
def test_plain_names(name):
    assert plain_name(name) == name


@pytest.mark.parametrize("name", [*ESCAPES, "", ".", "a/b", "a:b", None, 3, ["a"]])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not a plain file name"):
        plain_name(name)


@pytest.mark.parametrize("path", ["a", "a/b.jpg", "./a", "12:30.jpg", "a/..b"])
def test_relative_paths(path):
    check_relative(path)


@pytest.mark.parametrize("path", [*ESCAPES, "", "."])
def test_paths_that_leave_the_folder_are_refused(path):
    with pytest.raises(ValueError, match=r"leads out|contains|names no file"):
        check_relative(path)


def test_links_are_followed(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").touch()
    (folder / "file").touch()
    (folder / "link").symlink_to("../outside")
    (folder / "inner").symlink_to("file")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "way").symlink_to("folder")
    assert is_inside(tmp_path / "way" / "file", folder)
    assert is_inside(folder / "inner", tmp_path / "way")
    assert not is_inside(folder / "link", folder)
    assert not is_inside(tmp_path / "folder2", folder)
    assert not is_inside(folder / "a\0b", folder)


def test_names_that_no_file_has_are_no_files(tmp_path):
    (tmp_path / "file").touch()
    assert is_file(tmp_path / "file")
    assert not any(is_file(tmp_path / name) for name in (".", "other", "x" * 300, "a\0b"))


def test_long_values_are_cut():
    assert shown("a" * 10**6) == f"'{'a' * 79}…"
    assert shown([1, 2]) == "[1, 2]"
