"""Commands that write stored embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pivl_distill.cli.options import (
    FOLDER,
    HARDWARE,
    ID,
    OUT_FILE,
    RUN_OR_FILE,
    device_option,
    preprocessing_options,
)
from pivl_distill.storage.output_path import OutputPath

if TYPE_CHECKING:
    from pivl_distill.config import DeviceChoice, Preprocessing
    from pivl_distill.runtime.onnx_session import ExecutionDevice


@click.command(
    short_help="Write the embeddings of a folder of crops.",
    epilog="""\b
Examples:
  pivl-distill embed crops/ -o features.npz
  pivl-distill embed crops/ --export deploy/ --precision fp32 -o features.parquet
  pivl-distill embed crops/ --network osnet.onnx --preset osnet -o features.npz
""",
)
@click.argument("folder", type=FOLDER)
@click.option("--export", "export_dir", type=FOLDER, help="An export; default: the latest.")
@click.option("--network", type=RUN_OR_FILE, help="A .onnx or .xml of others, without --export.")
@preprocessing_options
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or int8.")
@click.option("--device", type=HARDWARE, help="Where to compute; default: a GPU if there is one.")
@click.option("--camera", type=ID, help="Camera id of all images, for networks that use it.")
@click.option("--out", "-o", type=OUT_FILE, required=True, help="File: .npz or .parquet.")
@click.pass_context
def embed(
    ctx: click.Context,
    folder: Path,
    export_dir: Path | None,
    network: Path | None,
    preprocessing: Preprocessing | None,
    precision: str,
    device: ExecutionDevice | None,
    camera: int | None,
    out: Path,
) -> None:
    """Write the embeddings of all images in a folder; exit code 3 if some cannot be read.

    Runs without torch, except for networks of others. Embeddings have unit length: compare them by
    their dot product. Several processes (torchrun) write one Parquet file each.
    """
    from pivl_distill.app.embed_folder import embed_folder, open_embedder, print_embedded
    from pivl_distill.errors import VerificationError

    embedder = open_embedder(export_dir, network, preprocessing, precision, device or "auto")
    report = embed_folder(folder, embedder, out, camera)
    print_embedded(report)
    if report.unreadable:
        ctx.exit(VerificationError.exit_code)


@click.command(
    short_help="Map stored vectors to another network.",
    epilog="""\b
Examples:
  pivl-distill migrate people.npz --from runs/export-1 --to runs/export-2 -o migrated.npz
  pivl-distill migrate gallery/ --from osnet.onnx --from-preset osnet --to deploy/ -o migrated/
""",
)
@click.argument("vectors", type=RUN_OR_FILE)
@click.option("--from", "old", type=RUN_OR_FILE, required=True, help="Network that made them.")
@click.option("--to", "new", type=RUN_OR_FILE, required=True, help="Network of the queries.")
@click.option("--from-preset", metavar="NAME|FILE", help="Preprocessing of the old .onnx or .xml.")
@click.option("--to-preset", metavar="NAME|FILE", help="Preprocessing of the new .onnx or .xml.")
@click.option("--data", "spec", metavar="KIND:PATH", help="Data set; default: that of the new run.")
@click.option("--force", is_flag=True, help="Also write vectors that do not pay.")
@device_option(text="Where to compute; auto: a GPU if there is one, the CPU for ONNX files.")
@click.option("--out", "-o", type=OutputPath(folder=None), required=True, help="File or folder.")
def migrate(
    vectors: Path,
    old: Path,
    new: Path,
    from_preset: str | None,
    to_preset: str | None,
    spec: str | None,
    force: bool,
    device: DeviceChoice,
    out: Path,
) -> None:
    """Map stored vectors, whose crops are gone, from one network to another.

    VECTORS is a file of `embed`, or a folder of Parquet files. The map is fitted on the training
    crops of --data, which both networks embed, and measured on its query and gallery. Nothing is
    written if the new network finds less in the mapped gallery than the old one in its own.
    """
    from pivl_distill.app.migrate import (
        check_pays,
        fit_migration,
        migrate_files,
        open_sources,
        print_migrated,
        print_migration,
    )
    from pivl_distill.app.networks import load_network
    from pivl_distill.foreign import load_preprocessing

    maker, searcher = (
        load_network(path, None if preset is None else load_preprocessing(preset), device=device)
        for path, preset in ((old, from_preset), (new, to_preset))
    )
    sources = open_sources(vectors, out, maker)
    migration = fit_migration(maker, searcher, spec)
    print_migration(migration)
    check_pays(migration, force=force)
    print_migrated(migration, list(migrate_files(migration, sources)))
