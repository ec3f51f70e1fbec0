"""Load settings from YAML and `--set a.b=value`, on top of the defaults.

One error lists every unknown key and bad value, with the nearest known key. A file can extend
another: `extends: NAME` loads that file first, `extends: {teach: NAME}` one section of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

import configs
from pivl_distill.config.base import Settings
from pivl_distill.config.yaml_files import parse_yaml, read_yaml
from pivl_distill.errors import MAX_SHOWN, PivlError, did_you_mean, unknown_name
from pivl_distill.storage.paths import is_file, shown

CONFIGS_DIR = Path(configs.__file__).parent
SECTIONS = ("teach", "student")
EXTENDS = "extends"
MAX_MISTAKES = 50
"""Bad settings that one error lists; there may be as many as a file has values."""

CACHE_LIMITS = {
    "teach": ("data.crop_cache_gib", "tuning.feature_cache_gib"),
    "student": ("data.crop_cache_gib",),
}
"""Settings of each section that limit the cache folder; they do not affect results."""

Config = TypeVar("Config", bound=Settings)


def load_config(
    model: type[Config],
    section: str,
    source: str | None,
    overrides: dict[str, Any],
    resumed: str | None = None,
) -> Config:
    """Resolve settings: defaults, then a resumed run, then a YAML file, then overrides.

    Args:
        model: class of the settings.
        section: section of YAML files: "teach" or "student".
        source: YAML file, or the name of one in `configs/`.
        overrides: values by dotted setting name.
        resumed: config.yaml of the run to resume.

    Raises: PivlError that lists every mistake, or if a file lacks the section.
    """
    values: dict[str, Any] = {}
    for name in filter(None, (resumed, source)):
        sections = _read_extended(_find_config(name))
        if section not in sections:
            raise PivlError(f"{name} has no section '{section}', only {', '.join(sections)}.")
        values = _merge(values, sections[section])
    for key, value in overrides.items():
        _set(values, key, value)
    merged = _merge(model().model_dump(), values)
    return validate_settings(model, merged, source or resumed or "the command line")


def given_settings(
    section: str, source: str | None, overrides: Mapping[str, Any]
) -> dict[str, str]:
    """Return the origin of each setting that the user gave, by dotted name.

    An origin is "command line" or the name of the file.
    """
    given: dict[str, str] = {}
    if source is not None:
        settings = _read_extended(_find_config(source)).get(section, {})
        given = {key: source for key, _ in flatten_settings(settings)}
    return given | {key: "command line" for key, _ in flatten_settings(overrides)}


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested settings: {"a": {"b": 1}} → ("a.b", 1)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def validate_settings(model: type[Config], values: dict[str, Any], where: str) -> Config:
    """Return `values` as settings; raises PivlError that names `where` and lists every mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        if len(lines) > MAX_MISTAKES:
            lines[MAX_MISTAKES:] = [f"  … and {len(lines) - MAX_MISTAKES} more"]
        raise PivlError("\n".join([f"Bad settings in {where}:", *lines])) from error


def dump_config(config: Settings, section: str) -> str:
    """Return resolved settings as YAML that `load_config` can read."""
    return yaml.safe_dump({section: config.model_dump(mode="json")}, sort_keys=False)


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value` and parse the value as YAML: `3`, `1e-3`, `true`, `[256, 128]`."""
    key, separator, value = text.partition("=")
    mistake = PivlError(f"--set takes key=value, such as stage2.epochs=30; got {shown(text)}.")
    if not separator or not key:
        raise mistake
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise mistake from error
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    return key, parsed


def find_preset(kind: str, name: str, folder: Path) -> Path:
    """Return the YAML file `name`, or `folder`/`name`.yaml; raises PivlError if there is neither.

    `kind` is what the file describes, for the message.
    """
    for path in (Path(name), folder / f"{name}.yaml"):
        if is_file(path):
            return path
    if Path(name).suffix in (".yaml", ".yml"):
        raise PivlError(f"The {kind} file {name} does not exist.")
    raise unknown_name(kind, name, (path.stem for path in folder.glob("*.yaml")))


def _find_config(source: str) -> Path:
    return find_preset("configuration", source, CONFIGS_DIR)


def _read_extended(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the sections of a file, merged over those of the files it extends.

    An extended file is looked up in the folder of `path`, then like any other configuration.
    """
    if path in extending:
        chain = " → ".join(str(p) for p in (*extending, path))
        raise PivlError(f"Configurations extend each other in a circle: {chain}.")
    content = _read_sections(path)
    base = content.pop(EXTENDS, None)
    sections = {name: section or {} for name, section in content.items()}
    if base is None:
        return sections
    so_far = (*extending, path)
    if not isinstance(base, dict):
        return _merge(_read_extended(_find_base(path, str(base)), so_far), sections)
    inherited = {}
    for section, name in base.items():
        if section not in SECTIONS:
            raise unknown_name(f"section that {path} extends", str(section), SECTIONS)
        extended = _read_extended(_find_base(path, str(name)), so_far)
        if section not in extended:
            raise PivlError(f"{path} extends the section '{section}' of {name}, which has none.")
        inherited[section] = extended[section]
    return _merge(inherited, sections)


def _find_base(path: Path, base: str) -> Path:
    """Return the file that the configuration `path` extends; raises PivlError if there is none."""
    if is_file(sibling := path.parent / f"{base}.yaml"):
        return sibling
    try:
        return _find_config(base)
    except PivlError as error:
        raise PivlError(f"{path} extends {shown(base)}, which cannot be found: {error}") from error


def _read_sections(path: Path) -> dict[str, Any]:
    content = read_yaml(path, f"the sections {' and '.join(sorted(SECTIONS))}")
    for key, section in content.items():
        if key == EXTENDS:
            continue
        if key not in SECTIONS:
            raise unknown_name(f"section of {path}", str(key), (*SECTIONS, EXTENDS))
        if not isinstance(section, dict | None):
            raise PivlError(
                f"The section '{key}' of {path} must contain settings, not {shown(section)}."
            )
    return content


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        if not isinstance(values.setdefault(parent, {}), dict):
            raise PivlError(f"'{dotted}': '{parent}' is a single value, not a section.")
        values = values[parent]
    values[last] = value


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _shown_key(key: object) -> str:
    """Return a key for a message; quoted and cut if it is long or cannot be printed."""
    text = str(key)
    return text if text and len(text) <= MAX_SHOWN and text.isprintable() else shown(key)


def _explain(model: type[BaseModel], problem: Any) -> str:
    path = ".".join(_shown_key(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"  {path}: {problem['msg']} (got {shown(problem['input'])})"
    *parents, unknown = problem["loc"]
    for parent in parents:
        annotation = model.model_fields[str(parent)].annotation
        model = annotation if isinstance(annotation, type) else model
    hint = did_you_mean(str(unknown), model.model_fields)
    return f"  {path}: unknown setting{hint} Known here: {', '.join(model.model_fields)}"
