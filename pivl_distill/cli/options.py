"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pivl_distill.errors import PivlError
from pivl_distill.storage.output_path import OutputPath

if TYPE_CHECKING:
    from export.engines.library import EngineLibrary


FOLDER = click.Path(file_okay=False, path_type=Path)
OUT_FOLDER, OUT_FILE = OutputPath(folder=True), OutputPath()
RUN_OR_FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
ID = click.IntRange(0, 2**31 - 1)
HARDWARE = click.Choice(["cpu", "cuda"])

SETTINGS = {
    "arch": "arch",
    "compatible_preset": "compatible.preset",
    "compatible_with": "compatible.network",
    "device": "device",
    "evaluation": "data.evaluation",
    "parsing": "data.parsing",
    "pretrained": "pretrained",
    "spec": "data.spec",
    "teacher": "teacher",
    "teacher_preset": "teacher_preset",
    "unlabeled": "data.unlabeled",
}
"""Options of `teach` and `student` that are shorthand for a setting."""

no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Neither read nor write the cache of decoded crops."
)
no_evaluation_option = click.option(
    "--no-evaluation",
    "evaluation",
    flag_value="false",
    default=None,
    help="Do not score the trained network; query and gallery are not read.",
)
data_option = click.option(
    "--data", "spec", metavar="KIND:PATH", help="Data set; default: that of the run."
)
parsing_option = click.option(
    "--parsing", type=FOLDER, help="Folder of parsing maps of the training images."
)
out_option = click.option(
    "--out", "-o", type=OUT_FOLDER, help="Run folder; default: the next in runs/."
)


def device_option(
    default: str = "auto", text: str = "Where to compute; auto: a GPU if there is one."
) -> Callable[..., Any]:
    """--device: where the command computes."""
    devices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=devices, default=default, show_default=True, help=text)


def _print_settings(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Print the settings of the command and exit, where --help-settings is given."""
    if value is None or ctx.resilient_parsing:
        return
    from pivl_distill.app.report import print_settings

    print_settings(str(ctx.info_name), advanced=value == "all")
    ctx.exit()


help_settings_option = click.option(
    "--help-settings",
    is_flag=False,
    flag_value="basic",
    type=click.Choice(["basic", "all"]),
    metavar="[all]",
    is_eager=True,
    expose_value=False,
    callback=_print_settings,
    help="Show the settings that most users change, or all, and exit.",
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a training command; those that are settings are passed on as `overrides`."""

    @click.option("--data", "spec", metavar="KIND:PATH", help="Data set, e.g. market1501:/data.")
    @parsing_option
    @click.option(
        "--unlabeled", metavar="FOLDER|KIND:PATH", help="Crops without labels, for distillation."
    )
    @click.option("--config", metavar="NAME|FILE", help="A YAML file, or one of configs/ by name.")
    @click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting; see --help-settings.",
    )
    @click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "meta"]),
        help="Where to train; default: a GPU if there is one. meta: --dry-run without a step.",
    )
    @out_option
    @click.option(
        "--resume",
        is_flag=False,
        flag_value="",
        metavar="[RUN]",
        help="Continue an unfinished run; default: the latest, or --out.",
    )
    @help_settings_option
    @click.option("--dry-run", is_flag=True, help="Check everything, print the cost, and stop.")
    @no_evaluation_option
    @no_cache_option
    @functools.wraps(command)
    def wrapped(*args: Any, assignments: tuple[str, ...], no_cache: bool, **kwargs: Any) -> None:
        from pivl_distill.config import CACHE_LIMITS, parse_override

        overrides = dict(parse_override(text) for text in assignments)
        if no_cache:
            overrides |= dict.fromkeys(CACHE_LIMITS[command.__name__], 0)
        for option in SETTINGS.keys() & kwargs.keys():
            if (value := kwargs.pop(option)) is not None:
                overrides[SETTINGS[option]] = str(value)
        command(*args, overrides=overrides, **kwargs)

    return wrapped


def tracker_options(command: Callable[..., None]) -> Callable[..., None]:
    """--tensorboard, as `callbacks`."""

    @click.option("--tensorboard", is_flag=True, help="Also write curves for TensorBoard.")
    @functools.wraps(command)
    def wrapped(*args: Any, tensorboard: bool, **kwargs: Any) -> None:
        from pivl_distill.runs.tensorboard import TensorBoardCallback

        command(*args, callbacks=[TensorBoardCallback()] if tensorboard else [], **kwargs)

    return wrapped


def camera_options(command: Callable[..., None]) -> Callable[..., None]:
    """--camera and --sie-coefficient, for networks with camera embeddings, as `cameras`."""

    @click.option("--camera", metavar="input|N|mean", help="Camera vectors (SIE); default: input.")
    @click.option(
        "--sie-coefficient", default=1.0, show_default=True, help="Coefficient used in training."
    )
    @functools.wraps(command)
    def wrapped(*args: Any, camera: str | None, sie_coefficient: float, **kwargs: Any) -> None:
        from pivl_distill.app.networks import Cameras

        command(*args, cameras=Cameras(camera, sie_coefficient), **kwargs)

    return wrapped


def corruption_options(command: Callable[..., None]) -> Callable[..., None]:
    """--corruptions and --corrupted, as `corrupted`; None without --corruptions."""

    @click.option("--corruptions", is_flag=True, help="Also score under blur, noise, low light, …")
    @click.option(
        "--corrupted",
        type=click.Choice(["query", "gallery", "both"]),
        default="query",
        show_default=True,
        help="What --corruptions corrupts.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, corruptions: bool, corrupted: str, **kwargs: Any) -> None:
        command(*args, corrupted=corrupted if corruptions else None, **kwargs)

    return wrapped


def preprocessing_options(command: Callable[..., None]) -> Callable[..., None]:
    """How the input of a network of others is made, as `preprocessing`; None if not given."""

    @click.option("--preset", metavar="NAME|FILE", help="Preprocessing of another's network.")
    @click.option("--size", metavar="HxW", help="Its input in pixels; default: as in the file.")
    @click.option("--mean", metavar="R,G,B", help="In units of --range and order of --colour.")
    @click.option("--std", metavar="R,G,B", help="As --mean; default of both: none.")
    @click.option("--colour", type=click.Choice(["rgb", "bgr"]), help="Order of its channels.")
    @click.option("--range", type=click.Choice(["1", "255"]), help="Pixel value of white.")
    @click.option("--output", metavar="NAME", help="Its embeddings, if it has several outputs.")
    @functools.wraps(command)
    def wrapped(*args: Any, preset: str | None, size: str | None, **kwargs: Any) -> None:
        given: dict[str, Any] = {
            "size_hw": _numbers("--size", size, "x", 2),
            "mean": _numbers("--mean", kwargs.pop("mean"), ",", 3),
            "std": _numbers("--std", kwargs.pop("std"), ",", 3),
            "range": None if (white := kwargs.pop("range")) is None else int(white),
            "colour": kwargs.pop("colour"),
            "output": kwargs.pop("output"),
        }
        given = {name: value for name, value in given.items() if value is not None}
        declared = None
        if preset or given:  # else torch, which the package of networks of others needs, stays out
            from pivl_distill.foreign import load_preprocessing

            declared = load_preprocessing(preset, given)
        command(*args, preprocessing=declared, **kwargs)

    return wrapped


def _numbers(option: str, text: str | None, separator: str, count: int) -> list[float] | None:
    """Split the value of an option into `count` numbers; raise PivlError if it has others."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(separator)]
    except ValueError:
        values = []
    if len(values) != count:
        example = "256x128" if separator == "x" else "0.485,0.456,0.406"
        raise PivlError(f"{option} takes {count} numbers, such as {example}; got '{text}'.")
    return values


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """--trt, --rtx, --batch and --workspace, as `engines`."""

    @click.option("--trt", is_flag=True, help="Also build TensorRT engines, for the GPU here.")
    @click.option("--rtx", is_flag=True, help="Also build TensorRT-RTX engines, on any machine.")
    @click.option(
        "--batch",
        metavar="MIN,OPT,MAX",
        default="1,8,64",
        show_default=True,
        help="Batch sizes of engines; fastest at OPT.",
    )
    @click.option(
        "--workspace",
        metavar="MIB",
        type=click.IntRange(min=1),
        help="Memory limit of an engine; default: the GPU's.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, trt: bool, rtx: bool, batch: str, workspace: int | None, **kwargs: Any
    ) -> None:
        from pivl_distill.app.export_run import Engines

        selected: dict[EngineLibrary, bool] = {"tensorrt": trt, "tensorrt-rtx": rtx}
        libraries = tuple(library for library, build in selected.items() if build)
        command(*args, engines=Engines(libraries, batch, workspace), **kwargs)

    return wrapped


def consumer_options(command: Callable[..., None]) -> Callable[..., None]:
    """--for and --consumer-python, as `targets`."""

    @click.option(
        "--for",
        "names",
        multiple=True,
        metavar="NAME",
        help="Also a folder for boxmot, openvino, …",
    )
    @click.option(
        "--consumer-python",
        "pythons",
        multiple=True,
        metavar="NAME=PATH",
        help="Python in which a consumer is installed.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, names: tuple[str, ...], pythons: tuple[str, ...], **kwargs: Any
    ) -> None:
        from pivl_distill.app.export_consumers import ConsumerTargets

        command(*args, targets=ConsumerTargets(names, pythons), **kwargs)

    return wrapped
