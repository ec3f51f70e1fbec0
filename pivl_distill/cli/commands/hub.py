"""Commands that exchange exports and banks with the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from pivl_distill.cli.options import OUT_FOLDER, RUN_OR_FILE


@click.command(
    short_help="Upload an export or a prompt bank to the hub.",
    epilog="""\b
Examples:
  pivl-distill push deploy/ OWNER/NAME --license apache-2.0
  pivl-distill push runs/teach-1 OWNER/NAME --license cc-by-nc-4.0 --public
""",
)
@click.argument("source", type=RUN_OR_FILE)
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--license", "licence", default="other", show_default=True, help="For the card, as on the hub."
)
@click.option("--public", is_flag=True, help="Make a new repository public; default: private.")
def push(source: Path, repository: str, licence: str, public: bool) -> None:
    """Upload the folder `hub` of an export, or the prompt bank of a teach run.

    Only files that are as their manifest describes them are uploaded. The environment variable
    HF_ENDPOINT names another server than the hub.
    """
    from pivl_distill.app import hub
    from pivl_distill.console import summary

    address = hub.push(source, repository, licence=licence, public=public)
    summary("Uploaded", {"commit": address})


@click.command(
    short_help="Download an export or a prompt bank from the hub.",
    epilog="""\b
Examples:
  pivl-distill pull OWNER/NAME -o deploy/
  pivl-distill pull OWNER/NAME@main
""",
)
@click.argument("repository", metavar="OWNER/NAME[@REVISION]")
@click.option("--out", "-o", type=OUT_FOLDER, help="A new folder; default: NAME.")
def pull(repository: str, out: Path | None) -> None:
    """Download an export that was pushed, or a bank, into a plain folder, and check its files."""
    from pivl_distill.app import hub
    from pivl_distill.console import summary

    summary("Downloaded", {"folder": hub.pull(repository, out)})
