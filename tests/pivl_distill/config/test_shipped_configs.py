"""Configurations in `configs/`, and the defaults."""

from __future__ import annotations

import pytest
import yaml

from pivl_distill.config import CONFIGS_DIR, StudentConfig, TeachConfig, load_config

MODELS = {"teach": TeachConfig, "student": StudentConfig}
NAMES = sorted(path.stem for path in CONFIGS_DIR.glob("*.yaml"))


def test_defaults_follow_our_experiments():
    teach, student = TeachConfig(), StudentConfig()
    assert (teach.tuning.identity_epochs, teach.tuning.part_epochs) == (60, 20)
    assert (teach.tuning.identities_per_batch, teach.tuning.crops_per_identity) == (16, 4)
    assert (teach.tuning.part_weighting, teach.tuning.background) == ("class_balanced", "ignore")
    assert teach.prompts.learned_tokens == 4
    assert (student.stage2.head.lateral, student.stage2.head.levels) == ("pointwise", (2, 3, 4))
    for loss in (teach.stage2.loss, student.stage2.loss):
        assert (loss.align, loss.align_distance, loss.align_background) == (1.0, "cosine", "ignore")
    assert student.supervision == "part"
    assert (student.distill.embedding, student.distill.relation) == (4.0, 3.0)
    assert student.stage2.min_lr_ratio == 1.0


@pytest.mark.parametrize("name", ["literal", "paper"])
def test_paper_and_literal_configs_follow_the_printed_equations(name):
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
def test_every_shipped_config_loads_and_names_its_command(name, section):
    config = load_config(MODELS[section], section, name, {})
    assert config != MODELS[section]()
    assert f"--config {name}" in (CONFIGS_DIR / f"{name}.yaml").read_text()


CLIP_REID = {
    "clipreid_rn50": ("RN50", 60, 120, 3.5e-4, 5e-4, (40, 70), 0.01, 1.0),
    "clipreid_vit": ("ViT-B-16", 120, 60, 5e-6, 1e-4, (30, 50), 0.1, 0.25),
    "clipreid_vit_sie_olp": ("ViT-B-16", 120, 60, 5e-6, 1e-4, (30, 50), 0.1, 0.25),
}


@pytest.mark.parametrize("name", CLIP_REID)
def test_clip_reid_configs_equal_the_official_ones(name):
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
def test_table_3_configs_differ_in_texts_and_maps(name):
    config = load_config(TeachConfig, "teach", name, {})
    row = (config.supervision, config.tuning.part_epochs, config.stage2.head.levels)
    assert row[: len(TABLE_3[name])] == TABLE_3[name]
    assert config.data.spec == "dukemtmc:data"
    assert config.tuning.identity_epochs == 60


TABLE_5 = {"table5_baseline": "none", "table5_clipreid": "identity", "table5_pivl": "part"}


@pytest.mark.parametrize("name", TABLE_5)
def test_table_5_configs_differ_in_texts(name):
    config = load_config(StudentConfig, "student", name, {})
    assert config.supervision == TABLE_5[name]
    assert (config.arch, config.data.size_hw) == ("mobilenetv2_025", (256, 128))
    cnn = load_config(TeachConfig, "teach", "clipreid_rn50", {}).stage2
    for field in ("epochs", "learning_rate", "weight_decay", "milestones", "bias_lr_factor"):
        assert getattr(config.stage2, field) == getattr(cnn, field)


def test_quick_config_uses_the_tiny_tier():
    content = yaml.safe_load((CONFIGS_DIR / "quick.yaml").read_text())
    assert {section["data"]["spec"] for section in content.values()} == {"synthetic:tiny"}


def test_photographs_change_the_schedule_alone():
    default, photographs = StudentConfig(), load_config(StudentConfig, "student", "photographs", {})
    changed = {"epochs": 60, "learning_rate": 3e-3}
    assert photographs.stage2 == default.stage2.model_copy(update=changed)
    assert photographs.model_copy(update={"stage2": default.stage2}) == default
    teachers = [load_config(TeachConfig, "teach", name, {}) for name in ("photographs", "paper")]
    assert teachers[0] == teachers[1]
