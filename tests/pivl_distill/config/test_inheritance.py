"""Data settings of a student: given ones are kept, the others are those of the bank's run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.config import DataSettings
from pivl_distill.config.inheritance import describe_data_settings, inherit_data_settings

BANK = DataSettings(
    spec="market1501:/data", parsing=Path("/maps"), size_hw=(256, 128), crop_cache_gib=1
)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"spec": "market1501:/data", "parsing": Path("/maps"), "size_hw": (256, 128)}),
        ({"spec": "msmt17:/x"}, {"spec": "msmt17:/x", "parsing": None, "size_hw": (256, 128)}),
        (
            {"spec": "market1501:/data"},
            {"spec": "market1501:/data", "parsing": Path("/maps"), "size_hw": (256, 128)},
        ),
        (
            {"size_hw": (128, 64)},
            {"spec": "market1501:/data", "parsing": Path("/maps"), "size_hw": (128, 64)},
        ),
        (
            {"parsing": Path("/other")},
            {"spec": "market1501:/data", "parsing": Path("/other"), "size_hw": (256, 128)},
        ),
    ],
)
def test_settings_are_inherited_one_by_one(own, expected):
    given = {f"data.{name}": "command line" for name in own}
    data, origins = inherit_data_settings(DataSettings(**own), given, BANK, "runs/teach-1")
    defaults = {"unlabeled": None, "validation_identities": 0, "evaluation": True}
    assert data.model_dump(exclude={"crop_cache_gib"}) == defaults | expected
    assert {name for name, origin in origins.items() if origin == "command line"} == set(own)
    assert all(
        origins[name] == "runs/teach-1" or name in own or value is None
        for name, value in expected.items()
    )


def test_the_cache_limit_and_the_evaluation_are_not_inherited():
    unscored = BANK.model_copy(update={"evaluation": False})
    data, origins = inherit_data_settings(DataSettings(), {}, unscored, "runs/teach-1")
    assert data.crop_cache_gib == DataSettings().crop_cache_gib
    assert data.evaluation
    assert origins["crop_cache_gib"] == origins["evaluation"] == "default"


def test_the_description_names_values_and_origins():
    given = {"data.spec": "command line"}
    data, origins = inherit_data_settings(DataSettings(spec="msmt17:/x"), given, BANK, "runs/t")
    assert describe_data_settings(data, origins) == (
        "Data settings: spec msmt17:/x (command line), parsing the data set's own (default),"
        " size_hw 256×128 (runs/t)."
    )
