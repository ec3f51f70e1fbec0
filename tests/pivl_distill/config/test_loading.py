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
    assert (student.stage2.head.lateral, student.stage2.head.levels) == ("pointwise", (2, 3, 4))
    loss = student.stage2.loss
    assert (loss.align, loss.align_distance, loss.align_background) == (5.0, "cosine", "ignore")
    assert student.supervision == "part"


@pytest.mark.parametrize("name", ["literal", "paper"])
def test_the_letter_of_the_paper(name):
    for section, model in MODELS.items():
        config = load_config(model, section, name, {})
        head, loss = config.stage2.head, config.stage2.loss
        assert (head.lateral, head.levels) == ("auto", (2, 4))
        assert (loss.align, loss.align_distance, loss.align_background) == (1.0, "mse", "include")
        assert (loss.identity, loss.triplet, loss.image_to_text) == (1.0, 1.0, 1.0)
        assert loss.triplet_margin == 0.3
    teach = load_config(TeachConfig, "teach", name, {})
    assert (teach.prompts.part_words == "raw") == (name == "paper")
    tuning = teach.tuning
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
    with pytest.raises(PivlError, match="has no section 'teach', only student"):
        load_config(TeachConfig, "teach", source, {})


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
def test_an_unknown_setting_is_answered_with_the_nearest(key, near):
    with pytest.raises(PivlError) as error:
        student(**{key.replace(".", "__"): 1})
    assert f"  {key}: unknown setting; did you mean '{near}'? Known here: " in str(error.value)


def test_an_unknown_setting_lists_those_of_its_own_level():
    with pytest.raises(PivlError) as error:
        student(stage2__head__xyz=1)
    assert "unknown setting. Known here: levels, merge, lateral, " in str(error.value)


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
        ("part", "a photo of a {X} person", "{X} and {part}"),
        ("part", "{X} {part} {colour}", "{X} and {part}"),
        ("part", "{X} {part", "{X} and {part}"),
        ("part", "{X:>3} {part}", "{X} and {part}"),
        ("part", "{part} of {X}, {part}", "{X} and {part}"),
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


def test_a_part_may_come_before_the_person():
    prompt = "the {part} of a {X} person"
    config = load_config(TeachConfig, "teach", None, {"prompts.part": prompt})
    assert config.prompts.part == prompt


def test_a_file_may_be_a_variation_of_another(tmp_path):
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


def test_what_is_extended_may_be_a_published_configuration(tmp_path):
    source = written(tmp_path, "extends: paper\nteach: {seed: 3}")
    config = load_config(TeachConfig, "teach", source, {})
    published = load_config(TeachConfig, "teach", "paper", {})
    assert config == published.model_copy(update={"seed": 3})


def test_what_is_extended_must_exist_and_not_go_in_circles(tmp_path):
    with pytest.raises(PivlError, match="Unknown configuration 'papre'; did you mean 'paper'"):
        student(written(tmp_path, "extends: papre"))
    (tmp_path / "other.yaml").write_text("extends: mine")
    with pytest.raises(PivlError, match=r"in a circle: .*mine.yaml → .*other.yaml → .*mine.yaml"):
        student(written(tmp_path, "extends: other"))


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


@pytest.mark.parametrize("levels", [[], [1], [2, 2], [4, 2], [6]])
def test_levels_are_the_papers_numbers_ascending(levels):
    with pytest.raises(PivlError, match=r"levels: Value error, must be some of \[2, 3, 4, 5\]"):
        student(stage2__head__levels=levels)


def test_soft_labels_and_weights_cannot_be_contrasted():
    with pytest.raises(PivlError, match="a contrast needs one text for each cell"):
        student(stage2__loss__align_labels="soft", stage2__loss__align_distance="contrastive")
    with pytest.raises(PivlError, match="a contrast does not weigh cells"):
        student(stage2__loss__align_confidence=True, stage2__loss__align_distance="contrastive")


@pytest.mark.parametrize(("scale", "taken"), [(3, 3.0), ("clip", "clip")])
def test_texts_have_a_norm_or_clips_own(scale, taken):
    assert student(stage2__loss__text_scale=scale).stage2.loss.text_scale == taken
    for wrong in (0, "CLIP"):
        with pytest.raises(PivlError, match="text_scale"):
            student(stage2__loss__text_scale=wrong)


CLIP_REID = {
    "clipreid_rn50": ("RN50", 60, 120, 3.5e-4, 5e-4, (40, 70), 0.01, 1.0),
    "clipreid_vit": ("ViT-B-16", 120, 60, 5e-6, 1e-4, (30, 50), 0.1, 0.25),
    "clipreid_vit_sie_olp": ("ViT-B-16", 120, 60, 5e-6, 1e-4, (30, 50), 0.1, 0.25),
}


@pytest.mark.parametrize("name", CLIP_REID)
def test_clip_reid_is_as_its_official_configurations(name):
    config = load_config(TeachConfig, "teach", name, {})
    stage2, tuning = config.stage2, config.tuning
    assert CLIP_REID[name] == (
        config.clip.name,
        tuning.identity_epochs,
        stage2.epochs,
        stage2.learning_rate,
        stage2.weight_decay,
        stage2.milestones,
        stage2.warmup_factor,
        stage2.loss.identity,
    )
    assert (config.supervision, tuning.part_epochs) == ("identity", 0)
    assert (tuning.learning_rate, tuning.min_learning_rate, tuning.warmup_rate) == (
        3.5e-4,
        1e-6,
        1e-5,
    )
    assert (stage2.bias_lr_factor, stage2.warmup_epochs, stage2.gamma) == (2, 10, 0.1)
    assert stage2.loss.text_scale == "clip"
    with_cameras = name.endswith("olp")
    assert (config.clip.stride_px, config.clip.sie_coefficient) == (
        (12, 1.0) if with_cameras else (None, 0.0)
    )


TABLE_3 = {
    "table3_b": ("identity", 0),
    "table3_b_h": ("label", 0, (4,)),
    "table3_b_p": ("part", 20, (4,)),
    "table3_b_p_f": ("part", 20, (2, 4)),
}


@pytest.mark.parametrize("name", TABLE_3)
def test_the_rows_of_table_3_differ_in_their_texts_and_maps(name):
    config = load_config(TeachConfig, "teach", name, {})
    row = (config.supervision, config.tuning.part_epochs, config.stage2.head.levels)
    assert row[: len(TABLE_3[name])] == TABLE_3[name]
    assert config.data.spec == "dukemtmc:data"
    assert config.tuning.identity_epochs == 60


TABLE_5 = {"table5_baseline": "none", "table5_clipreid": "identity", "table5_pivl": "part"}


@pytest.mark.parametrize("name", TABLE_5)
def test_the_arms_of_table_5_differ_in_their_texts(name):
    config = load_config(StudentConfig, "student", name, {})
    assert config.supervision == TABLE_5[name]
    assert (config.arch, config.data.size_hw) == ("mobilenetv2_025", (256, 128))
    cnn = load_config(TeachConfig, "teach", "clipreid_rn50", {}).stage2
    for field in ("epochs", "learning_rate", "weight_decay", "milestones", "bias_lr_factor"):
        assert getattr(config.stage2, field) == getattr(cnn, field)


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
