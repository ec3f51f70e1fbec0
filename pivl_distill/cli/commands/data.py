"""Data sets: synthetic people, checks, parsing maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import (
    FOLDER,
    PICTURE,
)

if TYPE_CHECKING:
    pass


@click.command(
    epilog="""\b
Examples:
  pivl-distill synth
  pivl-distill synth --tier hard --seed 3 --out /data/people --sheet people.png
"""
)
@click.option("--tier", default="default", show_default=True, help="tiny, default, medium or hard.")
@click.option("--seed", default=0, show_default=True, help="Other people, other cameras.")
@click.option("--out", "-o", type=FOLDER, help="Folder to make; default: the cache.")
@click.option("--sheet", type=PICTURE, help="Also draw some of the people and their maps, as PNG.")
def synth(tier: str, seed: int, out: Path | None, sheet: Path | None) -> None:
    """Make a data set of synthetic people in Market-1501 form, with exact parsing maps."""
    from pivl_distill.console import summary
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.data.synthetic.cache import cached_dataset
    from pivl_distill.data.synthetic.contact_sheet import contact_sheet
    from pivl_distill.data.synthetic.dataset import write_dataset
    from pivl_distill.data.synthetic.tiers import get_tier

    chosen = get_tier(tier)
    if out is None:
        root = cached_dataset(tier, seed)
    else:
        write_dataset(out, chosen, seed)
        root = out
    dataset = load_dataset(f"market1501:{root}")
    rows: dict[str, object] = {"folder": root}
    for split, (images, identities, cameras) in dataset.summary().items():
        rows[split] = f"{images} images, {identities} identities, {cameras} cameras"
    if sheet is not None:
        contact_sheet(root, sheet)
        rows["sheet"] = sheet
    summary(f"Synthetic people, tier {tier}, seed {seed}", rows)


@click.command(
    epilog="""\b
Examples:
  pivl-distill check market1501:/data --parsing /data/market_maps
  pivl-distill check "msmt17:/data?val=no"
  pivl-distill check manifest:crops.csv
"""
)
@click.argument("spec", metavar="KIND:PATH")
@click.option("--parsing", type=FOLDER, help="Folder of parsing maps of the training images.")
@click.pass_context
def check(ctx: click.Context, spec: str, parsing: Path | None) -> None:
    """Look for what spoils training or figures in a data set; exit code 3 if there is any.

    Counts beside the published ones, damaged and repeated images, leakage between training and
    test, queries without a match, parsing maps that do not fit.
    """
    from pivl_distill.app.report import print_check
    from pivl_distill.data.check import check_dataset
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.errors import VerificationError

    report = check_dataset(load_dataset(spec, parsing))
    print_check(report)
    if report.problems:
        ctx.exit(VerificationError.exit_code)


@click.command(
    epilog="""\b
Examples:
  pivl-distill parse synthetic:default
  pivl-distill parse market1501:/data --parser schp_lip --from schp_lip.onnx
  pivl-distill parse market1501:/data --parser segformer_clothes
  pivl-distill parse market1501:/data --parser maps --from schp_output --set vocabulary=atr18
  pivl-distill parse market1501:/data --parser my_parser.yaml --set to=coarse6
"""
)
@click.argument("spec", metavar="KIND:PATH")
@click.option("--parser", metavar="NAME|FILE", help="A preset or a YAML file; see docs/parsing.md.")
@click.option("--from", "source", metavar="PATH|ID", help="The parser's model, or existing maps.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Parser settings.")
@click.option("--all-splits", is_flag=True, help="Query and gallery too; training needs them not.")
@click.option("--out", "-o", type=FOLDER, help="Default: parsing-<parser> in the data set.")
def parse(
    spec: str,
    parser: str | None,
    source: str | None,
    assignments: tuple[str, ...],
    all_splits: bool,
    out: Path | None,
) -> None:
    """Write parsing maps of a data set's training images; a second run goes on where one stopped.

    Synthetic people are parsed by the embedded parser, photographs by one that you name.
    """
    from pivl_distill.app.report import print_parse
    from pivl_distill.config import parse_override
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.parsing.parse_dataset import parse_dataset

    overrides = dict(parse_override(text) for text in assignments)
    dataset = load_dataset(spec)
    print_parse(spec, parse_dataset(dataset, parser, source, overrides, out, all_splits))


@click.command(
    epilog="""\b
Example:
  pivl-distill occluded-duke /data/DukeMTMC-reID lists/Occluded_Duke /data/Occluded_Duke
"""
)
@click.argument("duke", type=FOLDER)
@click.argument("lists", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--link", is_flag=True, help="Hard-link the images instead of copying them.")
def occluded_duke(duke: Path, lists: Path, out: Path, link: bool) -> None:
    """Make Occluded-Duke from DukeMTMC-reID and the name lists that its authors publish.

    LISTS holds train.list, query.list and gallery.list; OUT is made.
    """
    from pivl_distill.app.report import print_dataset
    from pivl_distill.data.occluded_duke import rebuild_occluded_duke

    print_dataset(rebuild_occluded_duke(duke, lists, out, link=link))
