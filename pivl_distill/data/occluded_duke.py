"""Occluded-Duke (Miao et al., ICCV 2019), made from DukeMTMC-reID and its authors' lists of names.

Its images are DukeMTMC-reID's, split anew so that every query is occluded; its authors hand out
`train.list`, `query.list` and `gallery.list`, one file name a line.
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

LISTS = {
    "bounding_box_train": "train.list",
    "query": "query.list",
    "bounding_box_test": "gallery.list",
}


def rebuild_occluded_duke(duke: Path, lists: Path, out: Path, *, link: bool = False) -> ReIDDataset:
    """Copy, or hard-link, the listed images of the DukeMTMC-reID tree `duke` into the new `out`.

    Either the whole dataset is there in the end or nothing. Raises PivlError if `out` exists or a
    listed image does not.
    """
    if out.exists():
        raise PivlError(f"{out} exists already: remove it or name another folder.")
    form = MARKET_LAYOUTS["dukemtmc"]
    tree, _ = find_dataset_root(duke, form.title, [MARKET_SPLITS], form.subfolders)
    images = {split: _listed(tree, split, lists / name) for split, name in LISTS.items()}
    files = [(path, split) for split, paths in images.items() for path in paths]
    staging = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        for split in LISTS:
            (staging / split).mkdir(parents=True)
        for path, split in track(files, "Linking" if link else "Copying", unit="images"):
            (os.link if link else shutil.copy2)(path, staging / split / path.name)
        staging.rename(out)
    except OSError as error:
        hint = " Hard links need one file system; leave --link out to copy." if link else ""
        raise PivlError(f"Cannot write {out}: {error}.{hint}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_market("occluded_duke", out)


def _listed(tree: Path, split: str, source: Path) -> list[Path]:
    """The images that one list names: from the same split, else from where they were before."""
    names = dict.fromkeys(line.strip() for line in read_text(source).splitlines() if line.strip())
    require_images(len(names), source)
    if odd := [name for name in names if Path(name).name != name]:
        raise PivlError(f"{source} holds '{odd[0]}', not a bare file name. Take it as published.")
    subfolders = [tree / split, *(tree / other for other in MARKET_SPLITS if other != split)]
    paths = [
        next(
            (place / name for place in subfolders if (place / name).is_file()), tree / split / name
        )
        for name in names
    ]
    require_files(paths, source)
    return paths
