"""Commands on data sets: synthetic people, checks, parsing maps."""

from __future__ import annotations

from pathlib import Path

import click

from pivl_distill.cli.options import FOLDER, HARDWARE, ID, OUT_FILE, OUT_FOLDER, parsing_option


@click.command(
    short_help="Render a data set of synthetic people.",
    epilog="""\b
Examples:
  pivl-distill synth
  pivl-distill synth --tier hard --seed 3 --out /data/people --sheet people.png
""",
)
@click.option("--tier", default="default", show_default=True, help="tiny, default, medium or hard.")
@click.option("--seed", type=ID, default=0, show_default=True, help="Seed of people and cameras.")
@click.option("--out", "-o", type=OUT_FOLDER, help="Folder to create; default: the cache.")
@click.option("--sheet", type=OUT_FILE, help="Also write sample images and maps, as PNG.")
def synth(tier: str, seed: int, out: Path | None, sheet: Path | None) -> None:
    """Render a data set of synthetic people in Market-1501 layout, with exact parsing maps."""
    from pivl_distill.app.report import print_synthetic
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.data.synthetic.cache import cached_dataset
    from pivl_distill.data.synthetic.contact_sheet import contact_sheet
    from pivl_distill.data.synthetic.dataset import write_dataset
    from pivl_distill.data.synthetic.tiers import get_tier

    settings = get_tier(tier)
    if out is None:
        root = cached_dataset(tier, seed)
    else:
        write_dataset(out, settings, seed)
        root = out
    if sheet is not None:
        contact_sheet(root, sheet)
    print_synthetic(load_dataset(f"market1501:{root}"), tier, seed, sheet)


@click.command(
    short_help="Look for problems in a data set.",
    epilog="""\b
Examples:
  pivl-distill check market1501:/data --parsing /data/market_maps
  pivl-distill check "msmt17:/data?val=no"
  pivl-distill check manifest:crops.csv
""",
)
@click.argument("spec", metavar="KIND:PATH")
@parsing_option
@click.pass_context
def check(ctx: click.Context, spec: str, parsing: Path | None) -> None:
    """Look for problems in a data set that spoil training or scores; exit code 3 if there are any.

    Counts that differ from the published ones, files that are not used, damaged and duplicate
    images, leakage between training and test, queries without a match, parsing maps that do not
    fit.
    """
    from pivl_distill.app.report import print_check
    from pivl_distill.data.check import check_dataset
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.errors import VerificationError

    report = check_dataset(load_dataset(spec, parsing, allow_misnamed=True))
    print_check(report)
    if report.problems:
        ctx.exit(VerificationError.exit_code)


@click.command(
    short_help="Write parsing maps for a data set.",
    epilog="""\b
Examples:
  pivl-distill parse synthetic:default
  pivl-distill parse market1501:/data --parser schp_lip --from schp_lip.onnx
  pivl-distill parse market1501:/data --parser segformer_clothes
  pivl-distill parse market1501:/data --parser maps --from schp_output --set vocabulary=atr18
  pivl-distill parse market1501:/data --parser my_parser.yaml --set to=coarse6
""",
)
@click.argument("spec", metavar="KIND:PATH")
@click.option("--parser", metavar="NAME|FILE", help="A preset or a YAML file; see docs/parsing.md.")
@click.option("--from", "source", metavar="PATH|ID", help="The parser's model, or existing maps.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Parser settings.")
@click.option("--device", type=HARDWARE, help="Where to compute; default: a GPU if there is one.")
@click.option("--all-splits", is_flag=True, help="Also query and gallery, unused in training.")
@click.option("--out", "-o", type=OUT_FOLDER, help="Default: parsing-<parser> in the data set.")
def parse(
    spec: str,
    parser: str | None,
    source: str | None,
    assignments: tuple[str, ...],
    device: str | None,
    all_splits: bool,
    out: Path | None,
) -> None:
    """Write parsing maps of a data set's training images; a second run continues the first.

    Synthetic people are parsed by the embedded parser, photographs by the one you name.
    """
    from pivl_distill.app.report import print_parse
    from pivl_distill.config import parse_override
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.parsing.parse_dataset import parse_dataset

    overrides = dict(parse_override(text) for text in assignments)
    if device is not None:
        overrides["device"] = device
    dataset = load_dataset(spec)
    print_parse(spec, parse_dataset(dataset, parser, source, overrides, out, all_splits))


@click.command(
    short_help="Build Occluded-Duke from DukeMTMC-reID.",
    epilog="""\b
Example:
  pivl-distill occluded-duke /data/DukeMTMC-reID lists/Occluded_Duke /data/Occluded_Duke
""",
)
@click.argument("duke", type=FOLDER)
@click.argument("lists", type=FOLDER)
@click.argument("out", type=OUT_FOLDER)
@click.option("--link", is_flag=True, help="Hard-link the images instead of copying them.")
def occluded_duke(duke: Path, lists: Path, out: Path, link: bool) -> None:
    """Build Occluded-Duke from DukeMTMC-reID and the name lists that its authors publish.

    LISTS contains train.list, query.list and gallery.list; OUT is created.
    """
    from pivl_distill.app.report import print_dataset
    from pivl_distill.data.occluded_duke import rebuild_occluded_duke

    print_dataset(rebuild_occluded_duke(duke, lists, out, link=link))
