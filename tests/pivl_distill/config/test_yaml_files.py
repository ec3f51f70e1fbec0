"""YAML is read within limits: aliases, nesting, long values, and values of the wrong form."""

from __future__ import annotations

import pytest

from pivl_distill.config import StudentConfig, load_config
from pivl_distill.config.yaml_files import parse_yaml, read_yaml
from pivl_distill.errors import PivlError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(40))


def test_aliases_are_written_out():
    text = "base: &base {a: 1}\nother: {<<: *base, b: *base}\nagain: [*base]\n"
    expected = {"base": {"a": 1}, "other": {"a": 1, "b": {"a": 1}}, "again": [{"a": 1}]}
    assert parse_yaml(text) == expected
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "more than 20,000 values with its aliases written out"),
        (MERGES, "more than 20,000 values with its aliases written out"),
        (f"[{'x, ' * 20_000}]", "more than 20,000 values"),
        (CHAIN, "nested deeper than 32 levels"),
        ("[" * 40, "nested deeper than 32 levels"),
        ("[" * 200_000, "nested deeper than 32 levels"),
        ("- " * 40 + "x", "nested deeper than 32 levels"),
        ("a: &a [*a]", "alias \\*a is unknown, or inside its own anchor"),
        ("a: *b", "alias \\*b is unknown"),
        (f"a: {'x' * 3000}", "a value has more than 2,048 characters"),
        (f"a: 0x{'f' * 3000}", "a value has more than 2,048 characters"),
        ("a: 2001-99-99", "month must be in"),
        ("a: !!int x", "invalid literal"),
        ("a: !!bool x", "x"),
        ("a: !!timestamp x", "groupdict"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("{[a]: b}", "unhashable"),
        ("a: b: c", "mapping values are not allowed"),
        ("--- a\n--- b", "single document"),
        ("\0", r"^special characters are not allowed \(#x0000 at position 0\)$"),
        ("a: 1\nb: 'x", r"^while scanning a quoted scalar, .* \(line 2, column 6\)$"),
    ],
)
def test_hostile_texts_are_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PivlError, match=r"mine\.yaml is not readable YAML: "):
        read_yaml(path, "settings")


def test_large_files_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# " + "x" * 2**18)
    with pytest.raises(PivlError, match=r"such a file has at most 0\.25 MiB"):
        read_yaml(path, "settings")


def test_messages_about_settings_stay_short(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"student: {{arch: [{', '.join(['x' * 100] * 999)}]}}")
    with pytest.raises(PivlError, match="arch") as raised:
        load_config(StudentConfig, "student", str(path), {})
    assert len(str(raised.value)) < 500
