"""Teaching: prompt bank and teacher, students, banks of published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pivl_distill.cli.options import (
    DEVICE,
    FOLDER,
    settings_options,
)
from pivl_distill.errors import PivlError

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice


@click.command(
    epilog="""\b
Examples:
  pivl-distill teach
  pivl-distill teach --data market1501:/data/market --parsing /data/market_maps
  pivl-distill teach --config paper --set tuning.part_epochs=30
  pivl-distill teach --config paper --set device=meta --dry-run
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
    from pivl_distill.app.report import print_dry_run, print_teach
    from pivl_distill.app.targets import locate_run
    from pivl_distill.config import TeachConfig, load_config

    place = locate_run("teach", out, resume)
    settings = load_config(TeachConfig, "teach", config, overrides, place.begun_config)
    if dry_run:
        from teachers.dry_run import dry_run_teach

        print_dry_run(dry_run_teach(settings))
        return
    from teachers.teach import teach as run_teach

    print_teach(run_teach(settings, place.out, place.resume))


@click.command(
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
    device: ExecutionDevice,
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Train a light network on the texts of a prompt bank."""
    from pivl_distill.app.report import print_dry_run, print_student
    from pivl_distill.app.targets import bank_dim, find_bank, locate_run, needs_missing_bank
    from pivl_distill.config import CACHE_LIMITS, StudentConfig, load_config

    if max_ms is not None and resume is not None and out is None:
        raise PivlError("--resume continues with the network that was begun; leave --max-ms away.")
    place = locate_run("student", out, resume)
    chosen = {"arch": arch, "pretrained": pretrained}
    overrides |= {key: value for key, value in chosen.items() if value is not None}
    if bank == "none":
        overrides["supervision"] = "none"
    settings = load_config(StudentConfig, "student", config, overrides, place.begun_config)
    named = bank or place.begun_bank
    stand_in = dry_run and named is None and needs_missing_bank(settings.supervision)
    bank_file, data = (None, settings.data) if stand_in else find_bank(named, settings.supervision)
    chosen_data = config is not None or any(
        key.startswith("data.") and key not in CACHE_LIMITS["student"] for key in overrides
    )
    if place.resume is None and not chosen_data:
        kept = {"crop_cache_gib": settings.data.crop_cache_gib}
        settings = settings.model_copy(update={"data": data.model_copy(update=kept)})
    if max_ms is not None and place.resume is None:
        from pivl_distill.app.choose_arch import choose_arch

        if "arch" in overrides:
            raise PivlError("Either --arch names the student or --max-ms chooses it; drop one.")
        settings = choose_arch(settings, max_ms, device)
    if dry_run:
        from students.dry_run import dry_run_student

        dim = bank_dim(config) if stand_in else None
        print_dry_run(dry_run_student(settings, bank_file, dim))
        return
    from students.distill import train_student

    print_student(train_student(settings, bank_file, place.out, place.resume))


@click.command(
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
    from pivl_distill.app.report import print_clip_reid_bank
    from pivl_distill.config import DataSettings
    from teachers.clip_reid_bank import import_clip_reid_bank

    data = DataSettings(spec=spec, parsing=parsing)
    print_clip_reid_bank(import_clip_reid_bank(source, data, words, out, sie_coefficient))
