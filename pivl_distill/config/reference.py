"""The settings reference, generated from the models.

`settings_help` lists the settings of a command for `--help-settings`; `python -m
pivl_distill.config.reference` writes docs/settings.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pivl_distill.config.base import Settings
from pivl_distill.config.student import StudentConfig
from pivl_distill.config.teach import TeachConfig

PAGE = Path("docs/settings.md")
COMMANDS: dict[str, type[Settings]] = {"teach": TeachConfig, "student": StudentConfig}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
TYPE_NAMES = {str: "text", int: "integer", float: "number", Path: "path", type(None): "null"}


@dataclass(frozen=True)
class SettingEntry:
    """One setting of a command, as text for people."""

    name: str
    """Dotted name, as `--set` takes it, such as "stage2.epochs"."""
    type: str
    """Type and bounds, such as "number ≥ 0", or all choices, such as "cosine | mse"."""
    default: str
    """Default of this command, as YAML."""
    unit: str | None
    source: str | None
    """Where the setting or its default comes from; see `setting`."""
    description: str
    advanced: bool

    @property
    def section(self) -> str:
        """Dotted name of the section, such as "stage2.loss"; empty at the top level."""
        return self.name.rpartition(".")[0]


def settings_help(config_model: type[Settings], advanced: bool) -> list[SettingEntry]:
    """Return the settings of a command in declaration order: the basic ones, or all.

    Args:
        config_model: TeachConfig or StudentConfig.
        advanced: whether to include advanced settings.
    """
    entries = _entries(config_model())
    return [entry for entry in entries if advanced or not entry.advanced]


def render_page() -> str:
    """Return docs/settings.md: basic settings of each command, then the advanced by section."""
    parts = [
        "# Settings",
        "Generated from `pivl_distill/config/` by `python -m pivl_distill.config.reference`; do not"
        " edit.",
        "Give settings with `--set name=value`, or in a YAML file with `--config`"
        " ([presets](readings.md#presets)). Basic settings are the ones most users change."
        " Advanced settings choose between readings of the paper ([Readings](readings.md)), follow"
        " CLIP-ReID in detail, or tune speed and memory. *Source* is where a setting or its default"
        " comes from; § is a section of the π-VL paper, and the value after it is the paper's.",
    ]
    for command, model in COMMANDS.items():
        entries = settings_help(model, advanced=True)
        parts += [f"## {command}", "### Basic settings"]
        parts.append(_table([entry for entry in entries if not entry.advanced]))
        parts.append("### Advanced settings")
        sections = dict.fromkeys(entry.section for entry in entries if entry.advanced)
        for section in sorted(sections, key=bool):
            parts.append(f"#### {section or 'Top level'}")
            parts.append(_table([e for e in entries if e.advanced and e.section == section]))
    return "\n\n".join(parts) + "\n"


def _entries(settings: Settings, prefix: str = "") -> Iterator[SettingEntry]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _entries(value, f"{prefix}{name}.")
            continue
        metadata: Any = field.json_schema_extra or {}
        yield SettingEntry(
            name=f"{prefix}{name}",
            type=_field_type(field),
            default=_as_yaml(value),
            unit=metadata.get("unit"),
            source=metadata.get("source"),
            description=field.description or "",
            advanced=bool(metadata.get("advanced")),
        )


def _field_type(field: FieldInfo) -> str:
    return " ".join([_type_name(field.annotation), *_bounds(field.metadata)])


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        constraints = [
            item
            for argument in arguments[1:]
            for item in (argument.metadata if isinstance(argument, FieldInfo) else [argument])
        ]
        return " ".join([_type_name(arguments[0]), *_bounds(constraints)])
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, arguments))
    if origin is tuple and arguments[-1] is ...:
        return f"list of: {_type_name(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_name, arguments))}]"
    if annotation is bool:
        return "true | false"
    return TYPE_NAMES[annotation]


def _bounds(constraints: list[Any]) -> list[str]:
    """Bounds such as "≥ 0" of a value."""
    return [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in constraints
        for name, sign in BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]


def _as_yaml(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def _table(entries: list[SettingEntry]) -> str:
    rows = [
        "| setting | values | default | unit | description | source |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        cells = (
            f"`{entry.name}`",
            entry.type,
            f"`{entry.default}`",
            entry.unit or "",
            entry.description,
            entry.source or "",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
