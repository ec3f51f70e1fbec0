"""Datasets by name: `kind:argument?option=value` → records, labels and part maps.

One string names a dataset and every option that affects how it is read, so a run's configuration
records the protocol of its scores. Only training images need part maps. Nothing is downloaded:
datasets are available from their owners.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pivl_distill.data.generic import load_folders, load_regex
from pivl_distill.data.listing import parse_integer
from pivl_distill.data.market import load_market
from pivl_distill.data.msmt17 import load_msmt17
from pivl_distill.data.part_maps import find_map, folder_vocabulary, no_map_error
from pivl_distill.data.records import ReIDDataset
from pivl_distill.data.searched import MAX_UNUSED, MISNAMED
from pivl_distill.data.table import load_manifest
from pivl_distill.errors import PivlError, unknown_name
from pivl_distill.storage.files import expand_user
from pivl_distill.storage.paths import shown


@dataclass(frozen=True)
class DatasetKind:
    """A kind of dataset: its loader, which takes a path (or a name) and text options."""

    load: Callable[..., ReIDDataset]
    example: str
    options: tuple[str, ...] = ()
    on_disk: bool = True


def load_dataset(
    spec: str, parsing: Path | None = None, *, allow_misnamed: bool = False
) -> ReIDDataset:
    """Load the dataset that `spec` names, with the part maps in the folder `parsing`.

    `market1501:/path/to/dataset` is a copy on disk; `synthetic:default` (or `synthetic:default:7`
    for another seed) is rendered on first use; `KINDS` lists all kinds. Without `parsing`, maps
    come from a manifest or from the folder `<root>/parsing`, if either exists.

    Raises PivlError if the kind is unknown, if files are missing, or if more than `MAX_UNUSED` of
    the images are misnamed; with `allow_misnamed`, only if all images of a split are.
    """
    name, _, argument = spec.partition(":")
    if name not in KINDS:
        raise unknown_name("dataset kind", name, KINDS)
    kind = KINDS[name]
    argument, _, query = argument.partition("?")
    if not argument:
        raise PivlError(f"Dataset '{spec}' has a kind but no path or name: write '{kind.example}'.")
    options = _options(spec, kind, query)
    try:
        dataset = kind.load(expand_user(argument) if kind.on_disk else argument, **options)
        if not allow_misnamed:
            _refuse_misnamed(dataset)
        return _with_chosen_maps(dataset, parsing)
    except OSError as error:
        place = "" if error.filename is None else f": {shown(os.fsdecode(error.filename))}"
        raise PivlError(
            f"Cannot read the dataset '{spec}': {error.strerror or error}{place}."
        ) from error


def load_synthetic(argument: str) -> ReIDDataset:
    """Load the synthetic dataset `tier` or `tier:seed`, rendered on first use."""
    from pivl_distill.data.synthetic.cache import cached_dataset

    tier, _, seed = argument.partition(":")
    number = parse_integer(seed or "0")
    if number is None or number < 0:
        raise PivlError(
            f"Seed '{seed}' of 'synthetic:{argument}' is not an integer of 1 to 18 digits."
        )
    dataset = load_market("market1501", cached_dataset(tier, number))
    return replace(dataset, name=f"synthetic:{argument}")


def _load_msmt17(root: Path, val: str = "yes") -> ReIDDataset:
    if val not in ("yes", "no"):
        raise PivlError(f"Option val of msmt17 is yes (train on train + val) or no, not '{val}'.")
    return load_msmt17(root, val=val == "yes")


KINDS = {
    "market1501": DatasetKind(partial(load_market, "market1501"), "market1501:/path/to/dataset"),
    "msmt17": DatasetKind(_load_msmt17, "msmt17:/path/to/dataset", ("val",)),
    "dukemtmc": DatasetKind(partial(load_market, "dukemtmc"), "dukemtmc:/path/to/dataset"),
    "occluded_duke": DatasetKind(
        partial(load_market, "occluded_duke"), "occluded_duke:/path/to/dataset"
    ),
    "folders": DatasetKind(load_folders, "folders:/path/to/dataset", ("pattern",)),
    "regex": DatasetKind(
        load_regex, r"regex:/path/to/dataset?pattern=(?P<pid>\d+)_c(?P<cam>\d+)", ("pattern",)
    ),
    "manifest": DatasetKind(load_manifest, "manifest:/path/to/manifest.csv", ("root",)),
    "synthetic": DatasetKind(load_synthetic, "synthetic:default", on_disk=False),
}


def _options(spec: str, kind: DatasetKind, query: str) -> dict[str, str]:
    """Parse the options after `?`: `option=value`, separated by `&`; `%26` is a literal `&`."""
    options = {}
    for part in query.split("&") if query else ():
        name, separator, value = part.partition("=")
        if name not in kind.options:
            if not kind.options:
                raise PivlError(f"'{spec}': a dataset like '{kind.example}' takes no options.")
            raise unknown_name(f"option in '{spec}':", name, kind.options)
        if not separator or not value:
            raise PivlError(f"Option {name} in '{spec}' has no value: write ?{name}=...")
        options[name] = value.replace("%26", "&")
    return options


def _refuse_misnamed(dataset: ReIDDataset) -> None:
    misnamed = [image for image in dataset.searched.left_out if image.reason == MISNAMED]
    used = sum(map(len, dataset.splits.values()))
    if len(misnamed) > MAX_UNUSED * (used + len(misnamed)):
        raise PivlError(
            f"{misnamed[0].remedy} {len(misnamed):,} of {used + len(misnamed):,} images are not"
            " named as this kind of data set requires; `pivl-distill check` counts them."
        )


def _with_chosen_maps(dataset: ReIDDataset, parsing: Path | None) -> ReIDDataset:
    """Add maps from `parsing`, which must contain some, or from the dataset's folder, if any."""
    if parsing is not None:
        mapped = with_maps(dataset, parsing)
        if all(record.parsing is None for record in mapped.train):
            first = dataset.train[0].path
            unique = sum(record.path.stem == first.stem for record in dataset.train) == 1
            raise no_map_error(parsing, dataset.relative(first), flat=unique)
        return mapped
    default = dataset.root / "parsing"
    return dataset if dataset.vocabulary or not default.is_dir() else with_maps(dataset, default)


def with_maps(dataset: ReIDDataset, folder: Path) -> ReIDDataset:
    """Return the dataset with the part maps in `folder`; training images may lack one.

    Images that share a file name (`0001/1.jpg` and `0002/1.jpg`) have their maps in the same
    subfolders as the images; other maps may all be in one folder.
    """
    if not folder.is_dir():
        raise PivlError(f"The folder of parsing maps {folder} does not exist.")
    vocabulary = folder_vocabulary(folder)
    stem_counts = Counter(record.path.stem for record in dataset.train)
    train = tuple(
        replace(
            record,
            parsing=find_map(
                folder, dataset.relative(record.path), flat=stem_counts[record.path.stem] == 1
            ),
        )
        for record in dataset.train
    )
    return replace(dataset, train=train, vocabulary=vocabulary)
