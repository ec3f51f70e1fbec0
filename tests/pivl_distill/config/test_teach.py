"""Settings of prompts."""

from __future__ import annotations

import pytest

from pivl_distill.config import TeachConfig, load_config
from pivl_distill.errors import PivlError


@pytest.mark.parametrize(
    ("key", "template", "slots"),
    [
        ("identity", "a photo of a person", "{X}"),
        ("identity", "{X} and {X}", "{X}"),
        ("identity", "{X} {part}", "{X}"),
        ("part", "a photo of a {X} person", "{X} and {part}"),
        ("part", "{X} {part} {colour}", "{X} and {part}"),
        ("part", "{X} {part", "{X} and {part}"),
        ("part", "{X:>3} {part}", "{X} and {part}"),
        ("part", "{part} of {X}, {part}", "{X} and {part}"),
        ("label", "a photo of a {X} {part}", "{part}"),
        ("label", "{}", "{part}"),
    ],
)
def test_prompt_with_wrong_slots_is_an_error(key, template, slots):
    with pytest.raises(PivlError) as error:
        load_config(TeachConfig, "teach", None, {f"prompts.{key}": template})
    expected = f"prompts.{key}: Value error, must contain {slots} once and no other braces"
    assert expected in str(error.value)
    assert repr(template) in str(error.value)


def test_prompt_slots_may_be_in_any_order():
    prompt = "the {part} of a {X} person"
    config = load_config(TeachConfig, "teach", None, {"prompts.part": prompt})
    assert config.prompts.part == prompt
