"""Every setting, declared once with its unit and source, one module per section.

Defaults follow our own experiments on synthetic people. Where a default differs from the paper, the
setting's source gives the paper's value, and `configs/paper.yaml` sets it. `docs/readings.md` lists
the ambiguous places of the paper, each with the setting that chooses a reading.
"""

from pivl_distill.config.base import DeviceChoice, Settings, TrainingPrecision, setting
from pivl_distill.config.data import DataSettings
from pivl_distill.config.distillation import (
    CompatibilitySettings,
    DistillationSettings,
    PartClassificationSettings,
)
from pivl_distill.config.fusion_head import HeadSettings
from pivl_distill.config.inheritance import describe_data_settings, inherit_data_settings
from pivl_distill.config.loading import (
    CACHE_LIMITS,
    CONFIGS_DIR,
    dump_config,
    find_preset,
    flatten_settings,
    given_settings,
    load_config,
    parse_override,
    validate_settings,
)
from pivl_distill.config.losses import LossSettings
from pivl_distill.config.preprocessing import Preprocessing
from pivl_distill.config.stage2 import AugmentSettings, Stage2Settings
from pivl_distill.config.student import StudentConfig
from pivl_distill.config.teach import ClipSettings, PromptSettings, TeachConfig, TuningSettings
from pivl_distill.config.yaml_files import read_yaml

__all__ = [
    "CACHE_LIMITS",
    "CONFIGS_DIR",
    "AugmentSettings",
    "ClipSettings",
    "CompatibilitySettings",
    "DataSettings",
    "DeviceChoice",
    "DistillationSettings",
    "HeadSettings",
    "LossSettings",
    "PartClassificationSettings",
    "Preprocessing",
    "PromptSettings",
    "Settings",
    "Stage2Settings",
    "StudentConfig",
    "TeachConfig",
    "TrainingPrecision",
    "TuningSettings",
    "describe_data_settings",
    "dump_config",
    "find_preset",
    "flatten_settings",
    "given_settings",
    "inherit_data_settings",
    "load_config",
    "parse_override",
    "read_yaml",
    "setting",
    "validate_settings",
]
