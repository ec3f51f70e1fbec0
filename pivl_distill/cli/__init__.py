"""The command line. Each command imports its stage inside itself, so that --help is instant."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pivl_distill import __version__, ranks
from pivl_distill.errors import PivlError

if TYPE_CHECKING:
    from export.engines.library import Library
    from pivl_distill.cli.sources import Cameras, Engines
    from pivl_distill.runtime.session import Device

FOLDER = click.Path(file_okay=False, path_type=Path)
PICTURE = FILE = click.Path(dir_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)
DEVICE = click.Choice(["cpu", "cuda"])


MANY = ("teach", "student", "evaluate", "embed", "parse")
"""What torchrun may start in several processes; the others would do the same thing twice."""


class Commands(click.Group):
    """Commands in the order of the work; what the user can mend is printed without traceback.

    Several processes are one command: the first of them to fail says so.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if ranks.launched() > 1 and name not in MANY:
            raise PivlError(f"`pivl-distill {name}` is one process; start it without torchrun.")
        return name, command, rest

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            if ranks.launched() > 1:
                ranks.leave(end.code if isinstance(end.code, int) else bool(end.code))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        with ranks.joined():
            try:
                return super().invoke(ctx)
            except (PivlError, click.ClickException) as error:
                if ranks.tells(error):
                    _show(error)
                ranks.let_others_fail()
                ctx.exit(error.exit_code)
            except KeyboardInterrupt:
                if not ranks.rank():
                    click.echo("Stopped; what was finished is kept.", err=True)
                ctx.exit(130)


def _show(error: PivlError | click.ClickException) -> None:
    if isinstance(error, click.ClickException):
        error.show()
        return
    click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(str(error), err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="pivl-distill")
def main() -> None:
    """Teach light person re-identification networks from a text prompt bank.

    \b
    pivl-distill teach      CLIP → prompt bank and teacher
    pivl-distill student    prompt bank → light network
    pivl-distill export     network → verified ONNX (and TensorRT)

    Each runs without arguments: on synthetic people, from the latest run.
    """


def latest_export() -> Path:
    """The folder of the latest export run; PivlError when there is none."""
    from pivl_distill.runs import Run

    return Run.latest("export").path


no_cache_option = click.option(
    "--no-cache",
    is_flag=True,
    help="Neither use decoded crops and features of earlier runs nor keep any.",
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a training: --data to --set, --out, --resume, --dry-run, --no-cache."""

    @click.option("--data", "spec", metavar="KIND:PATH", help="Data set, e.g. market1501:/data.")
    @click.option("--parsing", type=FOLDER, help="Folder of parsing maps of the training images.")
    @click.option("--config", metavar="NAME|FILE", help="A YAML file, or one of configs/ by name.")
    @click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting.")
    @click.option("--out", "-o", type=FOLDER, help="Run folder; default: the next in runs/.")
    @click.option(
        "--resume",
        is_flag=False,
        flag_value="",
        metavar="[RUN]",
        help="Continue an unfinished run; default: the latest, or --out.",
    )
    @click.option("--dry-run", is_flag=True, help="Build everything, say what it takes, stop.")
    @no_cache_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        spec: str | None,
        parsing: Path | None,
        assignments: tuple[str, ...],
        no_cache: bool,
        **kwargs: Any,
    ) -> None:
        from pivl_distill.config import CACHE_LIMITS, parse_override

        overrides = dict(parse_override(text) for text in assignments)
        if no_cache:
            overrides |= dict.fromkeys(CACHE_LIMITS[command.__name__], 0)
        if spec is not None:
            overrides["data.spec"] = spec
        if parsing is not None:
            overrides["data.parsing"] = str(parsing)
        command(*args, overrides=overrides, **kwargs)

    return wrapped


@main.command(
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
    from pivl_distill.data.synthetic.dataset import write_dataset
    from pivl_distill.data.synthetic.sheet import contact_sheet
    from pivl_distill.data.synthetic.tiers import get_tier

    chosen = get_tier(tier)
    if out is None:
        root = cached_dataset(tier, seed)
    else:
        write_dataset(out, chosen, seed)
        root = out
    dataset = load_dataset(f"market1501:{root}")
    facts: dict[str, object] = {"folder": root}
    for split, (images, identities, cameras) in dataset.summary().items():
        facts[split] = f"{images} images, {identities} identities, {cameras} cameras"
    if sheet is not None:
        contact_sheet(root, sheet)
        facts["sheet"] = sheet
    summary(f"Synthetic people, tier {tier}, seed {seed}", facts)


@main.command(
    epilog="""\b
Examples:
  pivl-distill teach
  pivl-distill teach --data market1501:/data/market --parsing /data/market_maps
  pivl-distill teach --config paper --set tuning.part_epochs=30
  pivl-distill teach --config paper --set device=meta --set clip.weights=none --dry-run
  pivl-distill teach --resume
"""
)
@settings_options
def teach(
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Tune prompts with CLIP, write the prompt bank, train the teacher."""
    from pivl_distill.cli.report import print_rehearsal, print_teach
    from pivl_distill.cli.sources import run_place
    from pivl_distill.config import TeachConfig, load_config

    place = run_place("teach", out, resume)
    settings = load_config(TeachConfig, "teach", config, overrides, place.begun_config)
    if dry_run:
        from teachers.rehearsal import rehearse_teach

        print_rehearsal(rehearse_teach(settings))
        return
    from teachers.teach import teach as run_teach

    print_teach(run_teach(settings, place.out, place.resume))


@main.command(
    epilog="""\b
Examples:
  pivl-distill student
  pivl-distill student --arch resnet18 --bank runs/teach-1
  pivl-distill student --bank none                     the plain baseline
  pivl-distill student --set supervision=identity      identity texts only (CLIP-ReID)
  pivl-distill student --max-ms 2 --device cpu         the largest that is fast enough here
  pivl-distill student --resume runs/student-2
"""
)
@click.option("--arch", help="mobilenetv2_025 (default) or any timm model with feature stages.")
@click.option("--bank", metavar="RUN|FILE|none", help="Teach run or bank; default: the latest.")
@click.option("--pretrained", metavar="FILE|timm|none", help="Weights to start from.")
@click.option(
    "--max-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Instead of --arch: latency, exported.",
)
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="For --max-ms.")
@settings_options
def student(
    arch: str | None,
    bank: str | None,
    pretrained: str | None,
    max_ms: float | None,
    device: Device,
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Train a light network on the texts of a prompt bank."""
    from pivl_distill.cli.report import print_rehearsal, print_student
    from pivl_distill.cli.sources import find_bank, run_place
    from pivl_distill.config import CACHE_LIMITS, StudentConfig, load_config

    if max_ms is not None and resume is not None and out is None:
        raise PivlError("--resume continues with the network that was begun; leave --max-ms away.")
    place = run_place("student", out, resume)
    chosen = {"arch": arch, "pretrained": pretrained}
    overrides |= {key: value for key, value in chosen.items() if value is not None}
    if bank == "none":
        overrides["supervision"] = "none"
    settings = load_config(StudentConfig, "student", config, overrides, place.begun_config)
    bank_file, data = find_bank(bank or place.begun_bank, settings.supervision)
    chosen_data = config is not None or any(
        key.startswith("data.") and key not in CACHE_LIMITS["student"] for key in overrides
    )
    if place.resume is None and not chosen_data:
        kept = {"crop_cache_gib": settings.data.crop_cache_gib}
        settings = settings.model_copy(update={"data": data.model_copy(update=kept)})
    if max_ms is not None and place.resume is None:
        from pivl_distill.cli.choice import choose_arch

        if "arch" in overrides:
            raise PivlError("Either --arch names the student or --max-ms chooses it; drop one.")
        settings = choose_arch(settings, max_ms, device)
    if dry_run:
        from students.rehearsal import rehearse_student

        print_rehearsal(rehearse_student(settings, bank_file))
        return
    from students.distill import distill

    print_student(distill(settings, bank_file, place.out, place.resume))


def camera_options(command: Callable[..., None]) -> Callable[..., None]:
    """--camera and --sie-coefficient, for networks with a learned vector for each camera."""

    @click.option("--camera", metavar="input|N|mean", help="Camera vectors (SIE); default: input.")
    @click.option("--sie-coefficient", default=1.0, show_default=True, help="As it was trained.")
    @functools.wraps(command)
    def wrapped(*args: Any, camera: str | None, sie_coefficient: float, **kwargs: Any) -> None:
        from pivl_distill.cli.sources import Cameras

        command(*args, cameras=Cameras(camera, sie_coefficient), **kwargs)

    return wrapped


@main.command(
    epilog="""\b
Examples:
  pivl-distill bank Market_ViT-B-16_60.pth --data market1501:/data/market
  pivl-distill bank Market_RN50_120.pth --data market1501:/data/market --words openai
"""
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--data", "spec", required=True, metavar="KIND:PATH", help="What it was trained on.")
@click.option("--parsing", type=FOLDER, help="Folder of parsing maps of the training images.")
@click.option("--words", metavar="TAG|FILE|hf-hub:ID", help="Its CLIP; makes part texts too.")
@click.option("--sie-coefficient", default=1.0, show_default=True, help="As it was trained.")
@click.option("--out", "-o", type=FOLDER, help="Run folder; default: the next in runs/.")
def bank(
    source: Path,
    spec: str,
    parsing: Path | None,
    words: str | None,
    sie_coefficient: float,
    out: Path | None,
) -> None:
    """Take bank and teacher from a published CLIP-ReID checkpoint instead of teaching.

    SOURCE is the .pth file as CLIP-ReID saves it, or the same tensors as .safetensors.
    """
    from pivl_distill.cli.report import print_released_bank
    from pivl_distill.config import DataSettings
    from teachers.released_bank import released_bank

    data = DataSettings(spec=spec, parsing=parsing)
    print_released_bank(released_bank(source, data, words, out, sie_coefficient))


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """--trt, --rtx, --batch and --workspace: engines to build beside the ONNX files."""

    @click.option("--trt", is_flag=True, help="Also build TensorRT engines, on their own GPU.")
    @click.option("--rtx", is_flag=True, help="Also build TensorRT-RTX engines, on any machine.")
    @click.option(
        "--batch",
        metavar="MIN,OPT,MAX",
        default="1,8,64",
        show_default=True,
        help="Batches that engines take; fastest at OPT.",
    )
    @click.option(
        "--workspace",
        metavar="MIB",
        type=click.IntRange(min=1),
        help="Memory that engines may work in; default: the GPU's.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, trt: bool, rtx: bool, batch: str, workspace: int | None, **kwargs: Any
    ) -> None:
        from pivl_distill.cli.sources import Engines

        chosen: dict[Library, bool] = {"tensorrt": trt, "tensorrt-rtx": rtx}
        libraries = tuple(library for library, wanted in chosen.items() if wanted)
        command(*args, engines=Engines(libraries, batch, workspace), **kwargs)

    return wrapped


@main.command(
    epilog="""\b
Examples:
  pivl-distill export
  pivl-distill export runs/student-2 --normalize --bake-preprocessing
  pivl-distill export --precision fp16,int8 --budget int8.mAP=2
  pivl-distill export runs/teach-1 --precision fp16 --trt --batch 1,4,16 -o deploy/
  pivl-distill export Market_ViT-B-16_60.pth --camera mean -o deploy/
"""
)
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", is_flag=True, expose_value=False, help="ONNX files; always written.")
@engine_options
@click.option("--precision", multiple=True, metavar="fp32|fp16|int8", help="One, several or a,b.")
@click.option("--budget", multiple=True, metavar="KEY=VALUE", help="May be lost: int8.mAP=2, …")
@click.option("--normalize", is_flag=True, help="Put L2 normalisation into the graph.")
@click.option("--bake-preprocessing", is_flag=True, help="Take uint8 RGB crops [N, H, W, 3].")
@click.option("--data", "spec", metavar="KIND:PATH", help="Calibrate and verify on this instead.")
@no_cache_option
@camera_options
@click.option("--out", "-o", type=FOLDER, help="Folder; default: the next in runs/.")
def export(
    source: Path | None,
    engines: Engines,
    precision: tuple[str, ...],
    budget: tuple[str, ...],
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    out: Path | None,
    **options: bool,
) -> None:
    """Write a student or teacher as ONNX, without any of its teaching, and verify every file.

    SOURCE is a run folder or a checkpoint, also one that CLIP-ReID published; default: the latest
    student run. float32 is always written, as the reference; engines are built of every precision.
    Budgets are PRECISION.cosine, PRECISION.mAP and PRECISION.rank1. Exit code 3 if a file does not
    do what the checkpoint does, 4 if an engine was built but cannot be run here.
    """
    from export.exporter import ExportError, check_engines
    from export.verify import parse_budgets, parse_precision
    from pivl_distill.cli.report import print_engine, print_export
    from pivl_distill.cli.sources import export_checkpoint
    from pivl_distill.runs import Run

    precisions = [parse_precision(name) for names in precision for name in names.split(",")]
    budgets = parse_budgets(budget)
    engines.profile()  # refused before the work, not after it
    path = source or Run.latest("student").path
    try:
        report = export_checkpoint(
            path,
            spec,
            out,
            cameras,
            precisions=precisions,
            cached=not no_cache,
            budgets=budgets,
            **options,
        )
    except ExportError as error:
        print_export(error.report)
        raise
    print_export(report)
    built = []
    for engine in engines.build(report):
        print_engine(engine)
        built.append(engine)
    check_engines(built)


@main.command(
    epilog="""\b
Examples:
  pivl-distill evaluate
  pivl-distill evaluate runs/export-1/model.onnx --sheet found.png
  pivl-distill evaluate runs/teach-1 --data market1501:/data/market --rerank
  pivl-distill evaluate Market_ViT-B-16_60.pth --data market1501:/data/market
"""
)
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--data", "spec", metavar="KIND:PATH", help="Data set; default: the run's own.")
@no_cache_option
@camera_options
@click.option("--rerank", is_flag=True, help="Also score after k-reciprocal re-ranking.")
@click.option("--sheet", type=PICTURE, help="Also draw what was found for some queries, as PNG.")
def evaluate(
    target: Path | None,
    spec: str | None,
    no_cache: bool,
    cameras: Cameras,
    rerank: bool,
    sheet: Path | None,
) -> None:
    """Score a run, a checkpoint, an exported ONNX file or an engine by the Market-1501 protocol.

    TARGET is a run folder or a file, also a checkpoint that CLIP-ReID published; default: the
    latest student run.
    """
    from pivl_distill.cli.ranking import ranking_sheet
    from pivl_distill.cli.report import print_reranked, print_retrieval
    from pivl_distill.cli.sources import evaluate_target
    from pivl_distill.evaluation import score_reranked
    from pivl_distill.runs import Run

    target = target or Run.latest("student").path
    evaluation = evaluate_target(target, spec, cameras, cached=not no_cache)
    print_retrieval(evaluation)
    if rerank:
        print_reranked(score_reranked(evaluation.features, evaluation.test))
    if sheet is not None and not ranks.rank():
        ranking_sheet(evaluation.features, evaluation.test, sheet)


@main.command(
    epilog="""\b
Examples:
  pivl-distill embed crops/ -o features.npz
  pivl-distill embed crops/ --export deploy/ --precision fp32 -o features.parquet
"""
)
@click.argument("folder", type=FOLDER)
@click.option("--export", "export_dir", type=FOLDER, help="An export; default: the latest.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or int8.")
@click.option("--device", type=DEVICE, help="Default: a GPU where there is one.")
@click.option("--camera", type=int, help="Camera of all images, for networks that take one.")
@click.option("--out", "-o", type=FILE, required=True, help="File: .npz or .parquet.")
@click.pass_context
def embed(
    ctx: click.Context,
    folder: Path,
    export_dir: Path | None,
    precision: str,
    device: Device | None,
    camera: int | None,
    out: Path,
) -> None:
    """Write the vectors of all images in a folder; exit code 3 if some cannot be read.

    Runs without torch. Vectors are of length one: compare them by their dot product. Several
    processes (torchrun) write a Parquet file each.
    """
    from pivl_distill.cli.features import embed_folder, print_embedded
    from pivl_distill.errors import VerificationError
    from pivl_distill.files import check_writable
    from pivl_distill.runtime import Extractor

    check_writable(out)
    extractor = Extractor(
        export_dir or latest_export(), precision=precision, device=device or "auto"
    )
    report = embed_folder(folder, extractor, out, camera)
    print_embedded(report)
    if report.unreadable:
        ctx.exit(VerificationError.exit_code)


@main.command(
    epilog="""\b
Examples:
  pivl-distill bench
  pivl-distill bench deploy/ --threads 1 --threads 4 --batch 1 --batch 8 --batch 32
  pivl-distill bench --json bench.json --picture bench.png
"""
)
@click.argument("export_dir", metavar="[EXPORT]", required=False, type=FOLDER)
@click.option("--batch", "batches", multiple=True, type=COUNT, default=(1, 32), show_default=True)
@click.option("--threads", multiple=True, type=COUNT, help="CPU threads; default: all cores.")
@click.option("--device", "devices", multiple=True, type=DEVICE, help="Default: what is there.")
@click.option("--seconds", default=20.0, show_default=True, help="For each batch and threads.")
@click.option("--json", "json_file", type=FILE, help="Also write all figures as JSON.")
@click.option("--picture", type=PICTURE, help="Also draw mAP against latency, as PNG.")
def bench(
    export_dir: Path | None,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    devices: tuple[Device, ...],
    seconds: float,
    json_file: Path | None,
    picture: Path | None,
) -> None:
    """Time the files of an export here, turn about with PyTorch eager; default: the latest."""
    from dataclasses import asdict

    from pivl_distill.cli.bench import bench_chart, print_bench, run_bench
    from pivl_distill.files import check_writable, write_json
    from pivl_distill.runtime.session import has_cuda

    for file in (json_file, picture):
        if file is not None:
            check_writable(file)  # before the work, not after it
    threads = threads or (os.cpu_count() or 1,)
    engines = not devices or "cuda" in devices
    devices = devices or (("cpu", "cuda") if has_cuda() else ("cpu",))
    folder = export_dir or latest_export()
    report = run_bench(folder, batches, threads, devices, seconds, engines=engines)
    print_bench(report)
    if json_file is not None:
        write_json(json_file, asdict(report))
    if picture is not None:
        bench_chart(report, picture)


@main.command(
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
    from pivl_distill.cli.report import print_check
    from pivl_distill.data.check import check_dataset
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.errors import VerificationError

    report = check_dataset(load_dataset(spec, parsing))
    print_check(report)
    if report.problems:
        ctx.exit(VerificationError.exit_code)


@main.command(
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
    from pivl_distill.cli.report import print_parse
    from pivl_distill.config import parse_override
    from pivl_distill.data.datasets import load_dataset
    from pivl_distill.parsing.writing import parse_dataset

    overrides = dict(parse_override(text) for text in assignments)
    dataset = load_dataset(spec)
    print_parse(spec, parse_dataset(dataset, parser, source, overrides, out, all_splits))


@main.command(
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
    from pivl_distill.cli.report import print_made
    from pivl_distill.data.occluded_duke import rebuild_occluded_duke

    print_made(rebuild_occluded_duke(duke, lists, out, link=link))


@main.command(
    epilog="""\b
Example:
  pivl-distill demo
"""
)
def demo() -> None:
    """Run the whole job on synthetic people and compare the students (about ten CPU minutes)."""
    from pivl_distill.cli.demo import run_demo

    run_demo()


if __name__ == "__main__":
    sys.exit(main())
