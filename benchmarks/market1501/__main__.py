"""`python -m benchmarks.market1501`: one command for each file or table."""

from __future__ import annotations

import click

from benchmarks.market1501 import (
    captions,
    deployed,
    galleries,
    part_maps,
    photo_clip,
    rivals,
    students,
)
from pivl_distill.cli import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prepare and measure networks on Market-1501; README.md in this folder explains the files."""


for command in (
    part_maps.main,
    captions.main,
    photo_clip.main,
    rivals.main,
    students.main,
    galleries.main,
    deployed.main,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
