"""Settings: where they come from, which win, and that every mistake is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pivl_distill.config import (
    CONFIGS_DIR,
    DataSettings,
    Settings,
    StudentConfig,
    TeachConfig,
    dump_config,
    load_config,
    parse_override,
)
from pivl_distill.errors import PivlError

MODELS = {"teach": TeachConfig, "student": StudentConfig}
NAMES = sorted(path.stem for path in CONFIGS_DIR.glob("*.yaml"))


def student(source: str | None = None, **overrides: object) -> StudentConfig:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(StudentConfig, "student", source, dotted)


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


def test_without_source_and_overrides_there_are_the_defaults():
    assert student() == StudentConfig()
    assert load_config(TeachConfig, "teach", None, {}) == TeachConfig()


def test_the_defaults_follow_the_experiments_where_they_leave_the_paper():
    teach, student = TeachConfig(), StudentConfig()
    assert (teach.tuning.identity_epochs, teach.tuning.part_epochs) == (60, 20)
    assert (teach.tuning.identities_per_batch, teach.tuning.crops_per_identity) == (16, 4)
    assert (teach.tuning.part_weighting, teach.tuning.background) == ("class_balanced", "ignore")
    assert teach.prompts.learned_tokens == 4
    assert (student.stage2.head.lateral, student.stage2.head.levels) == ("pointwise", "all")
    loss = student.stage2.loss
    assert (loss.align, loss.align_distance, loss.align_background) == (5.0, "cosine", "ignore")
    assert student.supervision == "part"


def test_literal_is_the_letter_of_the_paper():
    for section, model in MODELS.items():
        config = load_config(model, section, "literal", {})
        head, loss = config.stage2.head, config.stage2.loss
        assert (head.lateral, head.levels) == ("auto", "literal")
        assert (loss.align, loss.align_distance, loss.align_background) == (1.0, "mse", "include")
        assert (loss.identity, loss.triplet, loss.image_to_text) == (1.0, 1.0, 1.0)
        assert loss.triplet_margin == 0.3
    tuning = load_config(TeachConfig, "teach", "literal", {}).tuning
    assert (tuning.part_weighting, tuning.background) == ("area", "include")
    assert (tuning.identity_epochs, tuning.part_epochs) == (60, 20)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("section", MODELS)
def test_every_published_configuration_loads_and_says_how_to_run_it(name, section):
    config = load_config(MODELS[section], section, name, {})
    assert config != MODELS[section]()
    assert f"--config {name}" in (CONFIGS_DIR / f"{name}.yaml").read_text()


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path):
    source = written(tmp_path, "student: {arch: resnet18, stage2: {loss: {align: 2}}}")
    config = student(source)
    assert (config.arch, config.stage2.loss.align) == ("resnet18", 2.0)
    default = StudentConfig()
    assert config.stage2.loss.triplet == default.stage2.loss.triplet
    assert config.stage2.epochs == default.stage2.epochs
    assert load_config(TeachConfig, "teach", source, {}) == TeachConfig()


def test_a_file_keeps_the_defaults_of_its_own_command(tmp_path):
    source = written(tmp_path, "teach: {stage2: {loss: {triplet: 0.5}}}")
    stage2 = load_config(TeachConfig, "teach", source, {}).stage2
    assert (stage2.epochs, stage2.loss.align, stage2.loss.triplet) == (6, 1.0, 0.5)


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
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
def test_the_value_of_an_override_is_read_as_yaml(text, key, value):
    parsed = parse_override(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["seed", "=3", "", "data.size_hw=[256", "seed={"])
def test_an_override_that_cannot_be_read(text):
    with pytest.raises(PivlError, match="--set takes key=value") as error:
        parse_override(text)
    assert f"'{text}'" in str(error.value)


def test_an_override_inside_a_value_is_refused(tmp_path):
    source = written(tmp_path, "student: {arch: resnet18}")
    with pytest.raises(PivlError, match=r"'arch\.width' asks for a setting inside 'arch'"):
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
def test_an_unknown_setting_is_answered_with_the_nearest(key, near):
    with pytest.raises(PivlError) as error:
        student(**{key.replace(".", "__"): 1})
    assert f"  {key}: unknown setting; did you mean '{near}'? Known here: " in str(error.value)


def test_an_unknown_setting_lists_those_of_its_own_level():
    with pytest.raises(PivlError) as error:
        student(stage2__head__xyz=1)
    assert str(error.value).endswith("unknown setting. Known here: lateral, levels")


def test_all_mistakes_are_told_at_once(tmp_path):
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


def test_mistakes_in_overrides_are_blamed_on_the_command_line():
    with pytest.raises(PivlError, match="Bad settings in the command line:"):
        student(seed="one")


@pytest.mark.parametrize("section", MODELS)
@pytest.mark.parametrize("source", [None, *NAMES])
def test_what_is_dumped_loads_as_the_same_settings(tmp_path, section, source):
    overrides = {"data.parsing": Path("maps") / "lip", "data.size_hw": [96, 48], "seed": 4}
    config = load_config(MODELS[section], section, source, overrides)
    dumped = written(tmp_path, dump_config(config, section))
    assert load_config(MODELS[section], section, dumped, {}) == config


@pytest.mark.parametrize(
    ("key", "template", "slots"),
    [
        ("identity", "a photo of a person", "{X}"),
        ("identity", "{X} and {X}", "{X}"),
        ("identity", "{X} {part}", "{X}"),
        ("part", "a photo of a {X} person", "{X} and then {part}"),
        ("part", "a {part} of {X}", "{X} and then {part}"),
        ("part", "{X} {part} {colour}", "{X} and then {part}"),
        ("part", "{X} {part", "{X} and then {part}"),
        ("part", "{X:>3} {part}", "{X} and then {part}"),
        ("label", "a photo of a {X} {part}", "{part}"),
        ("label", "{}", "{part}"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused(key, template, slots):
    with pytest.raises(PivlError) as error:
        load_config(TeachConfig, "teach", None, {f"prompts.{key}": template})
    expected = f"prompts.{key}: Value error, must hold {slots} once and no other braces"
    assert expected in str(error.value)
    assert repr(template) in str(error.value)


def test_an_unknown_configuration_is_answered_with_the_nearest():
    with pytest.raises(PivlError, match="Unknown configuration 'litteral'; did you mean 'literal'"):
        student("litteral")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("student: [", "is not readable YAML"),
        ("- 1", "must hold sections student and teach"),
        ("", "must hold sections student and teach"),
        ("students: {}", r"Unknown section of .*'students'; did you mean 'student'"),
        ("student: [1]", "section 'student' of .* must hold settings"),
        ("student: 3", "section 'student' of .* must hold settings"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, message):
    with pytest.raises(PivlError, match=message):
        student(written(tmp_path, text))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PivlError, match="is not readable YAML"):
        student(str(tmp_path / "mine.yaml"))


def test_an_empty_section_has_the_defaults(tmp_path):
    assert student(written(tmp_path, "student:\n")) == StudentConfig()


def test_the_configuration_of_a_begun_run_comes_before_what_is_said_now(tmp_path):
    begun = student(None, **{"stage2.epochs": 3, "seed": 4, "arch": "resnet18"})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(begun, "student"))
    assert load_config(StudentConfig, "student", None, {}, str(path)) == begun
    source = written(tmp_path, "student: {stage2: {epochs: 5}}")
    now = load_config(StudentConfig, "student", source, {"seed": 6}, str(path))
    assert (now.stage2.epochs, now.seed, now.arch) == (5, 6, "resnet18")


def test_settings_do_not_change_and_say_what_they_are():
    with pytest.raises(ValidationError):
        DataSettings().spec = "other"
    silent = [
        f"{model.__name__}.{name}"
        for model in Settings.__subclasses__()
        for name, field in model.model_fields.items()
        if not field.description and not isinstance(field.default, Settings)
    ]
    assert silent == []


def test_quick_stays_on_the_tiny_tier():
    content = yaml.safe_load((CONFIGS_DIR / "quick.yaml").read_text())
    assert {section["data"]["spec"] for section in content.values()} == {"synthetic:tiny"}
