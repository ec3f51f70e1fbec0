"""Build Occluded-Duke (Miao et al., ICCV 2019) from DukeMTMC-reID and the authors' lists.

It has the images of DukeMTMC-reID in another split, in which every query is occluded. The authors
publish `train.list`, `query.list` and `gallery.list`, with one file name per line.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pivl_distill.console import track
from pivl_distill.data.listing import find_dataset_root, read_text, require_files, require_images
from pivl_distill.data.market import MARKET_LAYOUTS, MARKET_SPLITS, load_market
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import atomic_folder
from pivl_distill.storage.paths import plain_name, shown

LISTS = {
    "bounding_box_train": "train.list",
    "query": "query.list",
    "bounding_box_test": "gallery.list",
}


def rebuild_occluded_duke(duke: Path, lists: Path, out: Path, *, link: bool = False) -> ReIDDataset:
    """Copy (or hard-link) the listed images of the DukeMTMC-reID folder `duke` to the new `out`.

    The write is atomic. Raises PivlError if `out` exists or a listed image does not.
    """
    if out.exists():
        raise PivlError(f"{out} exists already: remove it or name another folder.")
    layout = MARKET_LAYOUTS["dukemtmc"]
    tree, _ = find_dataset_root(duke, layout.title, [MARKET_SPLITS], layout.subfolders)
    images = {split: _listed(tree, split, lists / name) for split, name in LISTS.items()}
    files = [(path, split) for split, paths in images.items() for path in paths]
    try:
        with atomic_folder(out) as folder:
            for split in LISTS:
                (folder / split).mkdir()
            for path, split in track(files, "Linking" if link else "Copying", unit="images"):
                (os.link if link else shutil.copy2)(path, folder / split / path.name)
    except OSError as error:
        hint = " Hard links need one file system; omit --link to copy." if link else ""
        raise PivlError(f"Cannot write {out}: {error}.{hint}") from error
    return load_market("occluded_duke", out)


def _listed(tree: Path, split: str, source: Path) -> list[Path]:
    """Find the images that one list names, in the same split or in another one."""
    names = dict.fromkeys(line.strip() for line in read_text(source).splitlines() if line.strip())
    require_images(len(names), source)
    for name in names:
        try:
            plain_name(name)
        except ValueError as error:
            raise PivlError(
                f"{source} contains {shown(name)}, not a bare file name. Use the published list."
            ) from error
    subfolders = [tree / split, *(tree / other for other in MARKET_SPLITS if other != split)]
    paths = [
        next(
            (place / name for place in subfolders if (place / name).is_file()), tree / split / name
        )
        for name in names
    ]
    require_files(paths, source)
    return paths
