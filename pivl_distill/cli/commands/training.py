"""Commands that make banks, teachers and students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pivl_distill.cli.options import (
    HARDWARE,
    RUN_OR_FILE,
    device_option,
    out_option,
    parsing_option,
    settings_options,
    tracker_options,
)

if TYPE_CHECKING:
    from pivl_distill.config import DeviceChoice
    from pivl_distill.runs.callbacks import Callback
    from pivl_distill.runtime.onnx_session import ExecutionDevice


@click.command(
    short_help="Tune prompts with CLIP; train the teacher.",
    epilog="""\b
Examples:
  pivl-distill teach
  pivl-distill teach --data market1501:/data/market --parsing /data/market_maps
  pivl-distill teach --config paper --set tuning.part_epochs=30
  pivl-distill teach --config paper --device meta --dry-run
  pivl-distill teach --resume
""",
)
@settings_options
@tracker_options
def teach(
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
    callbacks: Sequence[Callback],
) -> None:
    """Tune prompts with CLIP, write the prompt bank, train the teacher."""
    from pivl_distill.app.report import print_dry_run, print_teach
    from pivl_distill.app.training_plan import plan_teach

    plan = plan_teach(config, overrides, out, resume)
    if dry_run:
        from teachers.dry_run import dry_run_teach

        print_dry_run(dry_run_teach(plan.config, plan.location.out))
    else:
        from teachers.teach import teach as run_teach

        location = plan.location
        print_teach(run_teach(plan.config, location.out, location.resume, callbacks))


@click.command(
    short_help="Train a light network with a prompt bank.",
    epilog="""\b
Examples:
  pivl-distill student
  pivl-distill student --arch resnet18 --bank runs/teach-1
  pivl-distill student --bank none                     the plain baseline
  pivl-distill student --bank none --teacher runs/teach-1    embeddings alone
  pivl-distill student --set supervision=identity      identity texts only (CLIP-ReID)
  pivl-distill student --compatible-with deploy/       its queries work in that gallery
  pivl-distill student --max-ms 2                      the largest that is fast enough here
  pivl-distill student --resume runs/student-2
  pivl-distill student --data folders:/data/crops --no-evaluation
""",
)
@click.option("--arch", help="mobilenetv2_025 (default) or any timm model with feature stages.")
@click.option(
    "--bank", metavar="RUN|FILE|hf-hub:ID|none", help="Teach run or bank; default: the latest."
)
@click.option("--teacher", metavar="RUN|FILE|none", help="Teacher to distil; default: the bank's.")
@click.option("--teacher-preset", metavar="NAME|FILE", help="Preprocessing of a teacher's .onnx.")
@click.option("--compatible-with", metavar="RUN|FILE", help="Network whose gallery is kept.")
@click.option("--compatible-preset", metavar="NAME|FILE", help="Preprocessing of its .onnx.")
@click.option("--pretrained", metavar="FILE|timm|none", help="Weights to start from.")
@click.option(
    "--max-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Choose the network by latency instead of --arch.",
)
@click.option(
    "--latency-device",
    type=HARDWARE,
    default="cpu",
    show_default=True,
    help="Device on which --max-ms measures.",
)
@settings_options
@tracker_options
def student(
    bank: str | None,
    max_ms: float | None,
    latency_device: ExecutionDevice,
    config: str | None,
    overrides: dict[str, Any],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
    callbacks: Sequence[Callback],
) -> None:
    """Train a light network with the text features of a prompt bank."""
    from pivl_distill.app.report import print_dry_run, print_student
    from pivl_distill.app.training_plan import plan_student

    plan = plan_student(
        config,
        overrides,
        out,
        resume,
        bank=bank,
        max_ms=max_ms,
        latency_device=latency_device,
        dry_run=dry_run,
    )
    location = plan.location
    if dry_run:
        from students.dry_run import dry_run_student

        print_dry_run(
            dry_run_student(
                plan.config, plan.bank_file, plan.random_bank_dim, location.out, plan.gallery
            )
        )
    else:
        from students.distill import train_student

        given = (plan.config, plan.bank_file, *location.folders)
        print_student(train_student(*given, callbacks, plan.gallery))


@click.command(
    short_help="Make a prompt bank from a CLIP-ReID checkpoint.",
    epilog="""\b
Examples:
  pivl-distill bank Market_ViT-B-16_60.pth --data market1501:/data/market
  pivl-distill bank Market_RN50_120.pth --data market1501:/data/market --base openai
""",
)
@click.argument("source", type=RUN_OR_FILE)
@click.option("--data", "spec", required=True, metavar="KIND:PATH", help="Its training data.")
@parsing_option
@click.option("--base", metavar="TAG|FILE|hf-hub:ID", help="Its CLIP; adds part texts.")
@click.option(
    "--sie-coefficient", default=1.0, show_default=True, help="Coefficient used in training."
)
@device_option()
@out_option
def bank(
    source: Path,
    spec: str,
    parsing: Path | None,
    base: str | None,
    sie_coefficient: float,
    device: DeviceChoice,
    out: Path | None,
) -> None:
    """Make a prompt bank and a teacher from a published CLIP-ReID checkpoint, without training.

    SOURCE is the .pth file as CLIP-ReID saves it, or the same tensors as .safetensors.
    """
    from pivl_distill.app.report import print_clip_reid_bank
    from pivl_distill.config import DataSettings
    from pivl_distill.device import pick_device
    from teachers.clip_reid_bank import import_clip_reid_bank

    data = DataSettings(spec=spec, parsing=parsing)
    place = pick_device(device)
    report = import_clip_reid_bank(source, data, base, out, sie_coefficient, place)
    print_clip_reid_bank(report)
