"""Arguments of the Python API, as the functions behind the commands take them, and its errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pivl_distill.config import Preprocessing, Settings, flatten_settings
from pivl_distill.errors import explain_os_error, unknown_name

if TYPE_CHECKING:
    from pivl_distill.app.networks import Cameras

P = ParamSpec("P")
R = TypeVar("R")
Values = Mapping[str, Any]
"""Settings by name; groups of settings are mappings, or have dotted names."""
Device = Literal["auto", "cpu", "cuda"]


def explain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Raise PivlError instead of TypeError for an argument's name, and of OSError for a file."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise unknown_name(f"argument of {function.__name__}", name, known)
        try:
            return function(*args, **kwargs)
        except OSError as error:
            if (explained := explain_os_error(error)) is None:
                raise
            raise explained from error

    return checked


def overrides_of(
    model: type[Settings], arguments: Mapping[str, Any], cache_limits: Iterable[str]
) -> dict[str, Any]:
    """Values by dotted setting name, as `load_config` takes them, from a function's arguments."""
    overrides: dict[str, Any] = {} if arguments["cache"] else dict.fromkeys(cache_limits, 0)
    for name in model.model_fields:
        value = arguments[name]
        if name == "data" and isinstance(value, str):
            overrides["data.spec"] = value
        elif value is not None:
            if isinstance(value, Settings):
                value = value.model_dump(exclude_unset=True)
            overrides |= dict(flatten_settings({name: value}))
    return overrides


def as_text(value: str | Path | None) -> str | None:
    """A name or path as text."""
    return None if value is None else str(value)


def as_path(value: str | Path | None) -> Path | None:
    """A path, however it is given."""
    return None if value is None else Path(value)


def as_resume(value: str | Path | bool) -> str | None:
    """As the option --resume: None for a new run, "" for the latest."""
    if isinstance(value, bool):
        return "" if value else None
    return str(value)


def latest_student() -> Path:
    """The student run that finished last; raises PivlError if there is none."""
    from pivl_distill.runs.run import Run

    return Run.latest("student").path


def as_cameras(camera: int | str | None, sie_coefficient: float) -> Cameras:
    """As the options --camera and --sie-coefficient."""
    from pivl_distill.app.networks import Cameras

    return Cameras(None if camera is None else str(camera), sie_coefficient)


def as_preprocessing(
    value: str | Path | Mapping[str, Any] | Preprocessing | None,
) -> Preprocessing | None:
    """A preset by name, a YAML file, or settings; None if nothing is declared."""
    from pivl_distill.foreign import load_preprocessing

    if value is None or isinstance(value, Preprocessing):
        return value
    if isinstance(value, str | Path):
        return load_preprocessing(str(value))
    return load_preprocessing(overrides=value)
