"""Every setting, declared once with its unit and source, one module per section.

Defaults are what our own experiments on synthetic people support; where they leave the letter of
the paper, the field says so and `configs/paper.yaml` holds the letter. `docs/readings.md` lists the
places where the paper can be read in several ways, each with the setting that chooses.
"""

from pivl_distill.config.base import Device, Precision, Settings
from pivl_distill.config.data import DataSettings
from pivl_distill.config.inheritance import describe_data_settings, inherit_data_settings
from pivl_distill.config.loading import (
    CACHE_LIMITS,
    CONFIGS_DIR,
    dump_config,
    flatten_settings,
    given_settings,
    load_config,
    parse_override,
    validate_settings,
)
from pivl_distill.config.stage2 import (
    AugmentSettings,
    HeadSettings,
    LossSettings,
    Stage2Settings,
)
from pivl_distill.config.student import StudentConfig
from pivl_distill.config.teach import ClipSettings, PromptSettings, TeachConfig, TuningSettings

__all__ = [
    "CACHE_LIMITS",
    "CONFIGS_DIR",
    "AugmentSettings",
    "ClipSettings",
    "DataSettings",
    "Device",
    "HeadSettings",
    "LossSettings",
    "Precision",
    "PromptSettings",
    "Settings",
    "Stage2Settings",
    "StudentConfig",
    "TeachConfig",
    "TuningSettings",
    "describe_data_settings",
    "dump_config",
    "flatten_settings",
    "given_settings",
    "inherit_data_settings",
    "load_config",
    "parse_override",
    "validate_settings",
]
