"""Finding dataset roots, images and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.data.listing import (
    find_dataset_root,
    find_images,
    list_images,
    parse_integer,
    parse_label,
    read_text,
    require_files,
    require_images,
)
from pivl_distill.errors import PivlError


def test_images_are_sorted_and_other_files_ignored(tmp_path: Path, reversed_listing: None) -> None:
    for name in ("b.jpg", "a.jpeg", "C.PNG", "._b.jpg", "Thumbs.db", ".DS_Store", "b.txt", "d.bmp"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["C.PNG", "a.jpeg", "b.jpg", "d.bmp"]


def test_folders_named_like_images_and_thumbnails_of_a_nas_are_no_images(
    tmp_path: Path, plant
) -> None:
    plant(tmp_path, ["@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._a.jpg", "b.jpg/c.webp"])
    plant(tmp_path, ["a.jpg", "d.TIFF", "e.tif", "f.jfif"])
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpg", "b.jpg/c.webp", "d.TIFF", "e.tif", "f.jfif"]
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "d.TIFF", "e.tif", "f.jfif"]


def test_first_subfolder_with_all_folders_of_a_layout_is_the_root(tmp_path: Path) -> None:
    forms = [("train", "test"), ("learn", "prove")]
    (tmp_path / "train").mkdir()
    for folder in forms[1]:
        (tmp_path / "inner" / folder).mkdir(parents=True)
    (tmp_path / "inner" / "empty").mkdir()
    root_and_form = find_dataset_root(tmp_path, "Some", forms, (".", "inner"))
    assert root_and_form == (tmp_path / "inner", forms[1])
    # The test split may lack; a place that has both comes first.
    assert find_dataset_root(tmp_path, "Some", forms) == (tmp_path, forms[0])
    with pytest.raises(PivlError, match="looked for the folders train, test or learn, prove there"):
        find_dataset_root(tmp_path / "inner" / "empty", "Some", forms)
    with pytest.raises(PivlError, match="there is no such folder"):
        find_dataset_root(tmp_path / "nowhere", "Some", forms)
    with pytest.raises(PivlError, match="one split of a Some dataset; name its parent folder"):
        find_dataset_root(tmp_path / "train", "Some", forms)


def test_errors_for_missing_files_and_empty_splits(tmp_path: Path) -> None:
    here = tmp_path / "here.jpg"
    here.touch()
    require_files([here], Path("list.txt"))
    with pytest.raises(PivlError, match=r"list\.txt names 2 files .*first: .*gone\.jpg"):
        require_files([here, tmp_path / "gone.jpg", tmp_path], Path("list.txt"))
    require_images(1, tmp_path)
    with pytest.raises(PivlError, match="contains no images"):
        require_images(0, tmp_path)


def test_text_may_have_a_byte_order_mark_but_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(PivlError, match="There is no file"):
        read_text(path)
    path.write_bytes("\ufeffzwölf".encode())
    assert read_text(path) == "zwölf"
    path.write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(PivlError, match="not UTF-8"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0007", 7),
        ("-1", -1),
        ("", None),
        ("1.0", None),
        ("²", None),
        ("٣", None),
        ("1" * 30, None),
    ],
)
def test_parse_integer(text: str, number: int | None) -> None:
    assert parse_integer(text) == number


@pytest.mark.parametrize("text", ["anna", "", "1.5", "9" * 19, "9" * 5000, "-" + "9" * 19, "٣"])
def test_labels_are_integers_of_at_most_64_bits(text: str) -> None:
    assert parse_label("-1", "identity", "here") == -1
    assert parse_label("9" * 18, "camera", "here") < 2**63
    with pytest.raises(PivlError, match=r"^here has the identity '.*, which is not an integer"):
        parse_label(text, "identity", "here")


def test_missing_folder_has_no_images(tmp_path: Path) -> None:
    assert list_images(tmp_path / "query") == []
