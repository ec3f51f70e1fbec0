"""The command line: the group of commands, and how errors are reported."""

from __future__ import annotations

from typing import Any

import click

from pivl_distill import __version__, crash_report
from pivl_distill.cli.commands import (
    data,
    deployment,
    exporting,
    galleries,
    hub,
    runs,
    training,
)
from pivl_distill.cli.encoding import make_output_encodable
from pivl_distill.cli.failures import report_failure
from pivl_distill.cli.lossy_messages import make_messages_lossy
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.log_handler import logs_on_stderr

MULTI_PROCESS = ("teach", "student", "evaluate", "embed", "parse")
"""Commands that torchrun may start in several processes; others would do the work twice."""


class Commands(click.Group):
    """Lists commands in workflow order; ends every exception in a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if process_group.launched_world_size() > 1 and name not in MULTI_PROCESS:
            raise PivlError(
                f"`pivl-distill {name}` is a single process; start it without torchrun."
            )
        return name, command, rest

    def main(self, *args: Any, **kwargs: Any) -> Any:
        make_messages_lossy()
        make_output_encodable()
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            if process_group.launched_world_size() > 1:
                process_group.exit_process(
                    end.code if isinstance(end.code, int) else bool(end.code)
                )
            raise

    def invoke(self, ctx: click.Context) -> Any:
        crash_report.report_to(None)
        with logs_on_stderr():
            try:
                with process_group.session():
                    return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click ends the process
            except KeyboardInterrupt:
                if not process_group.rank():
                    click.echo("Stopped; finished work is kept.", err=True)
                ctx.exit(130)
            except Exception as error:
                ctx.exit(report_failure(error))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="pivl-distill")
def main() -> None:
    """Teach light person re-identification networks from a text prompt bank.

    \b
    pivl-distill teach      CLIP → prompt bank and teacher
    pivl-distill student    prompt bank → light network
    pivl-distill export     network → verified ONNX (and TensorRT)

    Without arguments, each uses synthetic people or the latest run.
    """


for command in (
    data.synth,
    training.teach,
    training.student,
    training.bank,
    exporting.export,
    deployment.evaluate,
    galleries.embed,
    deployment.bench,
    hub.push,
    hub.pull,
    runs.compare,
    runs.report,
    runs.watch,
    galleries.migrate,
    data.check,
    data.parse,
    data.occluded_duke,
    deployment.demo,
):
    main.add_command(command)
