"""The functions, tests, settings and presets that the documentation names exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from pivl_distill.config import CONFIGS_DIR, StudentConfig, TeachConfig

ROOT = Path(__file__).parent.parent
READINGS = (ROOT / "docs" / "readings.md").read_text(encoding="utf-8")
EQUATIONS = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")


def equations() -> list[tuple[str, str, str]]:
    """(number, module, name) of every function that the table of equations names."""
    docstrings, full = [], {}
    for number, code in re.findall(r"^\| (\d+) \|[^|]*\| (.*) \|$", EQUATIONS, flags=re.M):
        for text in re.findall(r"`([^`]+)`", code):
            if text.endswith(".py"):
                module = full.setdefault(Path(text).name, text)
            else:
                docstrings.append((number, module.removesuffix(".py").replace("/", "."), text))
    return docstrings


@pytest.mark.parametrize(("number", "module", "name"), equations())
def test_each_equation_is_a_function_that_cites_it(number: str, module: str, name: str) -> None:
    target = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    cited = re.findall(r"Eq\. (\d+)(?:[–-](\d+))?", target.__doc__ or "")
    assert any(int(first) <= int(number) <= int(last or first) for first, last in cited)


def test_every_equation_has_a_function() -> None:
    assert {number for number, _, _ in equations()} == {str(number) for number in range(1, 13)}


def readings() -> dict[int, list[str]]:
    """Row → its cells."""
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", READINGS, flags=re.M)
    return {int(number): [cell.strip() for cell in rest.split(" | ")] for number, rest in rows}


def test_every_row_names_what_decides_and_a_test() -> None:
    rows = readings()
    assert list(rows) == list(range(1, 37))
    for number, (_, setting, tests) in rows.items():
        assert setting, number
        if tests != "–" and tests != "the same":
            for name in re.findall(r"`([^`]+)`", tests):
                path = "pivl_distill/test_equations.py" if name == "equations" else name
                assert (ROOT / "tests" / path).is_file(), (number, name)


def all_settings(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of a model's fields, also from the section they are in."""
    names = set()
    for name, field in model.model_fields.items():
        names.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = all_settings(field.annotation)
            names |= inner | {f"{name}.{of_inner}" for of_inner in inner}
    return names


def test_every_setting_that_is_named_exists() -> None:
    known = all_settings(TeachConfig) | all_settings(StudentConfig)
    sections = {name.split(".")[0] for name in known if "." in name}
    named = [
        text.split(":")[0]
        for _, setting, _ in readings().values()
        for text in re.findall(r"`([^`]+)`", setting)
    ]
    dotted = [text for text in named if text.split(".")[0] in sections and "…" not in text]
    assert len(dotted) > 30
    assert [text for text in dotted if text not in known] == []


def test_every_preset_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", READINGS.split("## Presets")[1]))
    assert {path.stem for path in CONFIGS_DIR.glob("*.yaml")} <= listed
