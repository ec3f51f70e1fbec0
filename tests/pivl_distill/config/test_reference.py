"""The generated settings reference: complete, current, and short for newcomers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pivl_distill.config import StudentConfig, TeachConfig, load_config
from pivl_distill.config.reference import COMMANDS, PAGE, render_page, settings_help

ROOT = Path(__file__).parents[3]


def test_settings_page_is_current():
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page == render_page(), "run `python -m pivl_distill.config.reference`"


@pytest.mark.parametrize("command", COMMANDS)
def test_basic_settings_are_about_a_dozen(command):
    basic = settings_help(COMMANDS[command], advanced=False)
    assert 10 <= len(basic) <= 16
    assert not any(entry.advanced for entry in basic)
    assert {"data.spec", "supervision", "stage2.epochs", "device", "seed"} <= {
        entry.name for entry in basic
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_a_description_and_loads_with_its_default(command):
    model = COMMANDS[command]
    entries = settings_help(model, advanced=True)
    assert all(entry.description and entry.type for entry in entries)
    defaults = {entry.name: yaml.safe_load(entry.default) for entry in entries}
    assert load_config(model, command, None, defaults) == model()


def test_defaults_are_those_of_the_command():
    defaults = {
        command: {entry.name: entry.default for entry in settings_help(model, advanced=True)}
        for command, model in COMMANDS.items()
    }
    assert defaults["teach"]["stage2.epochs"] == str(TeachConfig().stage2.epochs)
    assert defaults["student"]["stage2.epochs"] == str(StudentConfig().stage2.epochs)


def test_types_name_choices_and_bounds():
    types = {entry.name: entry.type for entry in settings_help(TeachConfig, advanced=True)}
    assert types["stage2.loss.align_distance"] == "cosine | mse | smooth_l1 | contrastive"
    assert types["stage2.loss.label_smoothing"] == "number ≥ 0 < 1"
    assert types["stage2.loss.text_scale"] == "number > 0 | clip"
    assert types["data.size_hw"] == "[integer > 0, integer > 0]"
    assert types["data.parsing"] == "path | null"
    assert types["stage2.milestones"] == "list of: integer > 0"
    assert types["tuning.restart"] == "true | false"


def test_units_and_sources_are_separate_from_descriptions():
    entries = {entry.name: entry for entry in settings_help(TeachConfig, advanced=True)}
    padding = entries["stage2.augment.pad_px"]
    assert (padding.unit, padding.section) == ("pixels", "stage2.augment")
    assert padding.source == "§4.2: 10 at 256×128"
    assert "§" not in padding.description
