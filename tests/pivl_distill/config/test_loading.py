"""Settings from files and overrides: precedence, and errors that list every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pivl_distill.config import (
    CONFIGS_DIR,
    StudentConfig,
    TeachConfig,
    dump_config,
    given_settings,
    load_config,
    parse_override,
)
from pivl_distill.errors import PivlError
from pivl_distill.storage.paths import shown

MODELS = {"teach": TeachConfig, "student": StudentConfig}
NAMES = sorted(path.stem for path in CONFIGS_DIR.glob("*.yaml"))


def student(source: str | None = None, **overrides: object) -> StudentConfig:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(StudentConfig, "student", source, dotted)


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


def test_defaults_without_file_and_overrides():
    assert student() == StudentConfig()
    assert load_config(TeachConfig, "teach", None, {}) == TeachConfig()


def test_file_changes_only_the_settings_it_names(tmp_path):
    source = written(tmp_path, "student: {arch: resnet18, stage2: {loss: {align: 2}}}")
    config = student(source)
    assert (config.arch, config.stage2.loss.align) == ("resnet18", 2.0)
    default = StudentConfig()
    assert config.stage2.loss.triplet == default.stage2.loss.triplet
    assert config.stage2.epochs == default.stage2.epochs
    with pytest.raises(PivlError, match="has no section 'teach', only student"):
        load_config(TeachConfig, "teach", source, {})


def test_file_keeps_the_defaults_of_its_command(tmp_path):
    source = written(tmp_path, "teach: {stage2: {loss: {triplet: 0.5}}}")
    stage2 = load_config(TeachConfig, "teach", source, {}).stage2
    assert (stage2.epochs, stage2.loss.align, stage2.loss.triplet) == (6, 1.0, 0.5)


def test_overrides_precede_the_file_and_the_file_precedes_defaults(tmp_path):
    source = written(tmp_path, "student: {seed: 5, stage2: {epochs: 7, learning_rate: 0.5}}")
    config = student(source, stage2__epochs=9, data__size_hw=[256, 128])
    assert (config.seed, config.stage2.epochs, config.stage2.learning_rate) == (5, 9, 0.5)
    assert config.data.size_hw == (256, 128)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("stage2.learning_rate=1e-3", "stage2.learning_rate", 1e-3),
        ("stage2.learning_rate=2.5E+1", "stage2.learning_rate", 25.0),
        ("data.size_hw=[256, 128]", "data.size_hw", [256, 128]),
        ("stage2.loss.triplet_normalize=false", "stage2.loss.triplet_normalize", False),
        ("data.parsing=null", "data.parsing", None),
        ("data.spec=market1501:/data/a=b", "data.spec", "market1501:/data/a=b"),
        ("arch=resnet18", "arch", "resnet18"),
        ("prompts.label=a photo of a {part}", "prompts.label", "a photo of a {part}"),
    ],
)
def test_override_value_is_parsed_as_yaml(text, key, value):
    parsed = parse_override(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize(
    "text", ["seed", "=3", "", "data.size_hw=[256", "seed={", "seed=" + "9" * 5000]
)
def test_malformed_override_is_an_error(text):
    with pytest.raises(PivlError, match="--set takes key=value") as error:
        parse_override(text)
    assert f"got {shown(text)}." in str(error.value)


def test_integers_that_no_library_takes_are_errors(tmp_path):
    with pytest.raises(PivlError, match="seed: Input should be less than or equal to 922337"):
        student(seed=2**63)
    with pytest.raises(PivlError, match="is not readable YAML"):
        student(written(tmp_path, "student: {seed: " + "9" * 5000 + "}"))


def test_override_inside_a_value_is_an_error(tmp_path):
    source = written(tmp_path, "student: {arch: resnet18}")
    with pytest.raises(PivlError, match=r"'arch\.width': 'arch' is a single value, not a section"):
        student(source, arch__width=3)
    with pytest.raises(PivlError, match="arch: Input should be a valid string"):
        student(arch__width=3)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("pretraned", "pretrained"),
        ("stage2.epoch", "epochs"),
        ("stage2.loss.aligm", "align"),
        ("stage2.loss.triplet_normalise", "triplet_normalize"),
    ],
)
def test_unknown_setting_suggests_the_nearest_name(key, near):
    with pytest.raises(PivlError) as error:
        student(**{key.replace(".", "__"): 1})
    assert f"  {key}: unknown setting; did you mean '{near}'? Known here: " in str(error.value)


def test_unknown_setting_lists_the_settings_of_its_section():
    with pytest.raises(PivlError) as error:
        student(stage2__head__xyz=1)
    assert "unknown setting. Known here: levels, merge, lateral, " in str(error.value)


def test_one_error_lists_all_mistakes(tmp_path):
    source = written(
        tmp_path,
        "student:\n"
        "  sed: 1\n"
        "  data: {size_hw: [128, 0]}\n"
        "  supervision: parts\n"
        "  stage2: {epochs: many, loss: {label_smoothing: 1.0}}\n",
    )
    with pytest.raises(PivlError) as error:
        student(source, stage2__augment__pad_px=-1)
    head, *lines = str(error.value).splitlines()
    assert head == f"Bad settings in {source}:"
    keys = {line.split(":")[0].strip() for line in lines}
    assert keys == {
        "sed",
        "data.size_hw.1",
        "supervision",
        "stage2.epochs",
        "stage2.loss.label_smoothing",
        "stage2.augment.pad_px",
    }
    assert "(got 'many')" in str(error.value)


def test_error_in_an_override_names_the_command_line():
    with pytest.raises(PivlError, match="Bad settings in the command line:"):
        student(seed="one")


@pytest.mark.parametrize("section", MODELS)
@pytest.mark.parametrize("source", [None, *NAMES])
def test_dumped_settings_load_unchanged(tmp_path, section, source):
    overrides = {"data.parsing": Path("maps") / "lip", "data.size_hw": [96, 48], "seed": 4}
    config = load_config(MODELS[section], section, source, overrides)
    dumped = written(tmp_path, dump_config(config, section))
    assert load_config(MODELS[section], section, dumped, {}) == config


def test_file_can_extend_another(tmp_path):
    (tmp_path / "root.yaml").write_text(
        "teach: {seed: 1, stage2: {epochs: 9}}\nstudent: {arch: a, stage2: {epochs: 9, gamma: 0.2}}"
    )
    (tmp_path / "middle.yaml").write_text("extends: root\nstudent: {stage2: {epochs: 8}}")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("extends: middle\nstudent: {arch: b}\nteach:\n")
    config = load_config(StudentConfig, "student", str(leaf), {"seed": 7})
    assert (config.arch, config.stage2.epochs, config.stage2.gamma) == ("b", 8, 0.2)
    assert config.seed == 7
    taught = load_config(TeachConfig, "teach", str(leaf), {})
    assert (taught.seed, taught.stage2.epochs) == (1, 9)


def test_file_can_extend_a_shipped_config(tmp_path):
    source = written(tmp_path, "extends: paper\nteach: {seed: 3}")
    config = load_config(TeachConfig, "teach", source, {})
    published = load_config(TeachConfig, "teach", "paper", {})
    assert config == published.model_copy(update={"seed": 3})


def test_file_can_extend_one_section_of_another(tmp_path):
    source = written(tmp_path, "extends: {teach: paper}\nteach: {seed: 3}\nstudent: {arch: b}")
    published = load_config(TeachConfig, "teach", "paper", {})
    taught = load_config(TeachConfig, "teach", source, {})
    assert taught == published.model_copy(update={"seed": 3})
    assert student(source) == StudentConfig(arch="b")
    with pytest.raises(PivlError, match=r"section that .*mine\.yaml extends 'teech'; did you mean"):
        student(written(tmp_path, "extends: {teech: paper}"))
    (tmp_path / "other.yaml").write_text("student: {seed: 1}")
    with pytest.raises(PivlError, match="extends the section 'teach' of other, which has none"):
        student(written(tmp_path, "extends: {teach: other}"))


def test_extended_file_must_exist_and_not_be_circular(tmp_path):
    with pytest.raises(PivlError, match="Unknown configuration 'papre'; did you mean 'paper'"):
        student(written(tmp_path, "extends: papre"))
    with pytest.raises(PivlError, match=r"mine\.yaml extends 'papre', which cannot be found"):
        student(written(tmp_path, "extends: papre"))
    (tmp_path / "other.yaml").write_text("extends: mine")
    with pytest.raises(PivlError, match=r"in a circle: .*mine.yaml → .*other.yaml → .*mine.yaml"):
        student(written(tmp_path, "extends: other"))


def test_odd_keys_and_overrides_are_quoted_and_short(tmp_path):
    with pytest.raises(PivlError, match=r"\n  '\\x1b\[2J\\n': unknown setting\.") as raised:
        student(written(tmp_path, 'student: {"\\e[2J\\n": 1}'))
    assert len(str(raised.value).splitlines()) == 2
    many = ", ".join(f"unknown{number}: 1" for number in range(99))
    with pytest.raises(PivlError, match=r"\n  … and 49 more$") as raised:
        student(written(tmp_path, f"student: {{{many}}}"))
    assert len(str(raised.value).splitlines()) == 52
    with pytest.raises(PivlError, match=r"got 'seed=\[\[") as raised:
        parse_override("seed=" + "[" * 2000)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_has_are_unknown(tmp_path, name):
    with pytest.raises(PivlError, match="Unknown configuration"):
        student(name)
    source = written(tmp_path, yaml.safe_dump({"extends": name, "student": {}}))
    with pytest.raises(PivlError, match=r"mine\.yaml extends '.*, which cannot be found: "):
        student(source)


def test_unknown_config_suggests_the_nearest_name():
    with pytest.raises(PivlError, match="Unknown configuration 'litteral'; did you mean 'literal'"):
        student("litteral")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("student: [", "is not readable YAML"),
        ("- 1", "must contain the sections student and teach"),
        ("", "must contain the sections student and teach"),
        ("students: {}", r"Unknown section of .*'students'; did you mean 'student'"),
        ("student: [1]", "section 'student' of .* must contain settings"),
        ("student: 3", "section 'student' of .* must contain settings"),
    ],
)
def test_malformed_file_is_an_error(tmp_path, text, message):
    with pytest.raises(PivlError, match=message):
        student(written(tmp_path, text))


def test_binary_file_is_an_error(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PivlError, match="is not readable YAML"):
        student(str(tmp_path / "mine.yaml"))


def test_empty_section_has_the_defaults(tmp_path):
    assert student(written(tmp_path, "student:\n")) == StudentConfig()


def test_file_and_overrides_precede_the_resumed_run(tmp_path):
    begun = student(None, **{"stage2.epochs": 3, "seed": 4, "arch": "resnet18"})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(begun, "student"))
    assert load_config(StudentConfig, "student", None, {}, str(path)) == begun
    source = written(tmp_path, "student: {stage2: {epochs: 5}}")
    now = load_config(StudentConfig, "student", source, {"seed": 6}, str(path))
    assert (now.stage2.epochs, now.seed, now.arch) == (5, 6, "resnet18")


def test_given_settings_name_the_file_or_the_command_line(tmp_path):
    source = written(tmp_path, "student: {data: {spec: a}, stage2: {loss: {align: 2}}}")
    overrides = {"seed": 1, "data": {"size_hw": [96, 48]}, "stage2.epochs": 3}
    assert given_settings("student", source, overrides) == {
        "data.spec": source,
        "stage2.loss.align": source,
        "seed": "command line",
        "data.size_hw": "command line",
        "stage2.epochs": "command line",
    }
    assert given_settings("student", None, {}) == {}
