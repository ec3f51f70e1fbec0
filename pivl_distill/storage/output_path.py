"""The type of command-line options and arguments that name what a command writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pivl_distill.errors import PivlError


class OutputPath(click.Path):
    """A file or folder to write; refused before the work begins if it cannot be written.

    With `folder=None` it may be either: a name without an extension is that of a folder.
    """

    def __init__(self, *, folder: bool | None = False) -> None:
        super().__init__(
            file_okay=not folder, dir_okay=folder is not False, readable=False, path_type=Path
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; a usage error names the option if it cannot be written.

        What a killed command left of writing it is removed.
        """
        from pivl_distill.storage.files import (  # not needed for --help
            check_writable,
            remove_abandoned,
        )

        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not (ctx and ctx.resilient_parsing):  # shell completion
            try:
                check_writable(path, folder=self.dir_okay and not (self.file_okay and path.suffix))
                remove_abandoned(path)
            except PivlError as error:
                self.fail(str(error), param, ctx)
        return path
