"""Configurations: YAML of training runs, parsers and preprocessing, with `--set` overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzz.case import Case
from fuzz.mutation import damaged, edited, odd_texts, odd_values
from pivl_distill.config import CONFIGS_DIR, StudentConfig, TeachConfig
from pivl_distill.config.loading import (
    dump_config,
    flatten_settings,
    given_settings,
    load_config,
    parse_override,
)
from pivl_distill.foreign import load_preprocessing
from pivl_distill.foreign.presets import PRESETS_DIR as PREPROCESSING_DIR
from pivl_distill.parsing.settings import PRESETS_DIR as PARSERS_DIR
from pivl_distill.parsing.settings import load_parser_settings
from pivl_distill.runs.run import read_data_settings
from pivl_distill.storage.files import write_text

MODELS = {"teach": TeachConfig, "student": StudentConfig}
_TOKENS = (
    b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"!!set ", b"? ",
    b"--- ", b"2026-13-41", b"0x" + b"f" * 3000, b"1:2:3", b"\t", b"%YAML 9.9\n",
    b"[" * 50, b"{" * 50, b"\xff\xfe", b"extends: config\n", b"=",
    b"1e999", b".nan", b"|\n", b"# ", b"'", b"9" * 5000,
)  # fmt: skip


def cases() -> st.SearchStrategy[Case]:
    """A configuration of one kind, in part based on another one, and overrides."""
    kinds = [("teach", _trees("teach")), ("student", _trees("student"))]
    kinds += [("parser", _presets(PARSERS_DIR)), ("preprocessing", _presets(PREPROCESSING_DIR))]
    return st.sampled_from(kinds).flatmap(lambda kind: _cases(*kind))


def _trees(section: str) -> list[dict[str, Any]]:
    trees = [{section: MODELS[section]().model_dump(mode="json")}]
    trees += [{"extends": "base", section: {"seed": 1}}, {section: None, "extends": "paper"}]
    return trees + _presets(CONFIGS_DIR)


def _presets(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text("utf-8")) for path in sorted(folder.glob("*.yaml"))]


@st.composite
def _cases(draw: st.DrawFn, kind: str, trees: list[dict[str, Any]]) -> Case:
    names = sorted({name for tree in trees for name, _ in flatten_settings(tree)})
    files = {"config.yaml": draw(_yaml(trees))}
    if draw(st.booleans()):
        files["base.yaml"] = draw(_yaml(trees))
    known = st.sampled_from([name.partition(".")[2] or name for name in names])
    values = odd_values().map(lambda value: yaml.safe_dump(value, default_flow_style=True)[:5000])
    texts = st.builds(
        lambda key, value: f"{key}={value}", known | odd_texts(), values | odd_texts()
    )
    overrides = draw(st.lists(texts, max_size=3))
    return Case(files, {"kind": kind, "set": overrides, "names": _keys(overrides)})


def _keys(overrides: list[str]) -> list[str]:
    """The names of settings in overrides, by which a message may say which one is meant."""
    return [part for text in overrides for part in text.partition("=")[0].split(".") if part]


def _yaml(trees: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    tree = st.sampled_from(trees)
    texts = tree.flatmap(edited).map(
        lambda value: yaml.safe_dump(value, sort_keys=False).encode(errors="surrogatepass")
    )
    return texts | texts | texts.flatmap(lambda text: damaged(text, _TOKENS))


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Load the settings; what is written to a run folder gives the same ones again."""
    path, kind = str(given / "config.yaml"), options["kind"]
    overrides = dict(map(parse_override, options["set"]))
    if kind == "parser":
        load_parser_settings(path, overrides=overrides)
    elif kind == "preprocessing":
        load_preprocessing(path, overrides)
    else:
        config = load_config(MODELS[kind], kind, path, overrides)
        given_settings(kind, path, overrides)
        write_text(out / "config.yaml", dump_config(config, kind))
        assert load_config(MODELS[kind], kind, str(out / "config.yaml"), {}) == config
        assert read_data_settings(out) == config.data
