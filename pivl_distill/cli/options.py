"""Options that several commands have, and the kinds of values that they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from export.engines.library import EngineLibrary

FOLDER = click.Path(file_okay=False, path_type=Path)
PICTURE = FILE = click.Path(dir_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)
DEVICE = click.Choice(["cpu", "cuda"])

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


def camera_options(command: Callable[..., None]) -> Callable[..., None]:
    """--camera and --sie-coefficient, for networks with a learned vector for each camera."""

    @click.option("--camera", metavar="input|N|mean", help="Camera vectors (SIE); default: input.")
    @click.option("--sie-coefficient", default=1.0, show_default=True, help="As it was trained.")
    @functools.wraps(command)
    def wrapped(*args: Any, camera: str | None, sie_coefficient: float, **kwargs: Any) -> None:
        from pivl_distill.app.targets import Cameras

        command(*args, cameras=Cameras(camera, sie_coefficient), **kwargs)

    return wrapped


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
        from pivl_distill.app.targets import Engines

        chosen: dict[EngineLibrary, bool] = {"tensorrt": trt, "tensorrt-rtx": rtx}
        libraries = tuple(library for library, wanted in chosen.items() if wanted)
        command(*args, engines=Engines(libraries, batch, workspace), **kwargs)

    return wrapped
