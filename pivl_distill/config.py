"""Every setting, declared once with its unit and source; read from YAML and `--set a.b=value`.

Defaults are what our own experiments on synthetic people support; where they leave the letter of
the paper, the field says so and `configs/literal.yaml` holds the letter. Unknown keys and bad
values are refused, all of them at once, each with the nearest known key.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

import configs
from pivl_distill.errors import PivlError, unknown_name

CONFIGS_DIR = Path(configs.__file__).parent

Config = TypeVar("Config", bound="Settings")
Device = Literal["auto", "cpu", "cuda"]


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """Where crops and parsing maps come from."""

    spec: str = Field("synthetic:default", description="kind:argument, such as market1501:/data")
    parsing: Path | None = Field(None, description="folder of maps; default: <root>/parsing")
    size_hw: tuple[PositiveInt, PositiveInt] = Field(
        (128, 64), description="crop height and width in pixels; the paper's 256×128 for real CLIP"
    )


class ClipSettings(Settings):
    """The CLIP whose texts teach."""

    name: str = Field("tiny_rn", description="embedded tiny_rn, tiny_vit, or an open_clip model")
    weights: str = Field(
        "embedded", description="embedded, an open_clip tag, hf-hub:ID, a file, or none"
    )
    stride_px: PositiveInt | None = Field(
        None, description="step between a ViT's patches; 12 overlaps them (OLP), null does not"
    )
    sie_coefficient: float = Field(
        0.0, ge=0, description="weight of a ViT's camera vectors (SIE), CLIP-ReID 1; 0 for none"
    )


class PromptSettings(Settings):
    """Words around the learned tokens (§3.1, §3.3)."""

    identity: str = Field("a photo of a {X} person", description="identity prompt T_D, Eq. 1")
    part: str = Field("a photo of a {X} person {part}", description="part prompt, Eq. 6")
    label: str = Field("a photo of a person {part}", description="part prompt without identity")
    learned_tokens: PositiveInt = Field(4, description="M; CLIP-ReID uses 4")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the first tokens")

    @field_validator("identity", "part", "label")
    @classmethod
    def _check_slots(cls, template: str, info: ValidationInfo) -> str:
        slots = {"identity": ["{X}"], "part": ["{X}", "{part}"], "label": ["{part}"]}
        wanted = slots[str(info.field_name)]
        if re.findall(r"{\w*}|[{}]", template) != wanted:
            raise ValueError(f"must hold {' and then '.join(wanted)} once and no other braces")
        return template


class TuningSettings(Settings):
    """Stage 1: prompt tuning of the learned tokens only (§3.3, §4.2)."""

    identity_epochs: PositiveInt = Field(60, description="epochs of Eq. 2, paper 60")
    part_epochs: PositiveInt = Field(20, description="epochs of Eq. 8 after them, paper 20")
    identities_per_batch: PositiveInt = Field(16, description="P of P×K")
    crops_per_identity: PositiveInt = Field(4, description="K of P×K")
    learning_rate: float = Field(
        2e-2, gt=0, description="Adam; paper 3.5e-4, the tiny text tower wants more"
    )
    min_learning_rate: float = Field(4e-4, ge=0, description="end of the cosine")
    warmup_epochs: float = Field(2.0, ge=0, description="linear warm-up, in epochs")
    schedule: Literal["smooth", "per_epoch"] = Field(
        "smooth", description="cosine step by step, or one rate per epoch as CLIP-ReID's"
    )
    warmup_rate: float = Field(1e-5, ge=0, description="start of the warm-up, per_epoch only")
    identity_temperature: float = Field(0.07, gt=0, description="τ of Eq. 2 on unit vectors")
    part_temperature: Annotated[float, Field(gt=0)] | Literal["clip"] = Field(
        0.07, description="τ of Eq. 7, a number or clip for 1 / CLIP's logit scale; MoCo 0.07"
    )
    part_normalize: bool = Field(
        True, description="Eq. 7 on unit vectors; false takes CLIP's own (CLIP-ReID, with τ = 1)"
    )
    part_negatives: Literal["batch", "image"] = Field(
        "batch", description="whether Eq. 7 contrasts over the batch or within each image"
    )
    part_positions: Literal["cells", "pooled"] = Field(
        "cells", description="Eq. 7 on grid cells, or on their mean over each part of an image"
    )
    part_weighting: Literal["area", "class_balanced"] = Field(
        "class_balanced", description="Eq. 7 averages over pixels (area, literal) or over texts"
    )
    background: Literal["include", "ignore"] = Field(
        "ignore", description="whether background cells take part in Eq. 7 (literal: include)"
    )
    feature_cache_gib: float = Field(
        20.0, ge=0, description="disk for CLIP's features of crops, for later runs; 0 keeps none"
    )


class HeadSettings(Settings):
    """The fusion-alignment head (§3.4); it exists in training only."""

    lateral: Literal["pointwise", "depthwise", "auto"] = Field(
        "pointwise", description="Eq. 9; depthwise is the letter, auto = it where D % C == 0"
    )
    levels: Literal["all", "literal", "last"] = Field(
        "all", description="Eq. 10: F2+F3+F4, F2+F4 as printed, or the last stage alone"
    )


class LossSettings(Settings):
    """Terms of Eq. 12 and their weights."""

    identity: float = Field(1.0, ge=0, description="weight of L_id, label-smoothed cross-entropy")
    triplet: float = Field(1.0, ge=0, description="weight of L_tri, batch-hard")
    image_to_text: float = Field(1.0, ge=0, description="weight of L_i2tce, Eq. 3")
    align: float = Field(5.0, ge=0, description="weight of L_align, Eq. 11; paper 1 (unweighted)")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="ε of L_id and L_i2tce")
    triplet_margin: float = Field(0.3, ge=0, description="margin of L_tri, paper 0.3")
    triplet_normalize: bool = Field(
        True, description="mine on unit vectors; raw features (CLIP-ReID) collapse weak starts"
    )
    text_scale: float = Field(
        10.0,
        gt=0,
        description="norm that identity texts are given in Eq. 3; CLIP-ReID keeps CLIP's own."
        " Logits much wider than CLIP's own scale turn label smoothing into a pull to zero",
    )
    align_background: Literal["include", "ignore"] = Field(
        "ignore", description="whether background cells take part in Eq. 11 (literal: include)"
    )
    align_distance: Literal["cosine", "mse"] = Field(
        "cosine", description="Eq. 11 as 2 − 2·cos, or as a plain mean squared error"
    )


class AugmentSettings(Settings):
    """Random changes to a crop and its map together (§4.2)."""

    pad_px: int = Field(5, ge=0, description="padding before the random crop; paper 10 at 256×128")
    flip_probability: float = Field(0.5, ge=0, le=1, description="horizontal flip")
    erase_probability: float = Field(0.5, ge=0, le=1, description="random erasing")


class Stage2Settings(Settings):
    """The training loop that teacher and student share."""

    epochs: PositiveInt = Field(20, description="paper: 120 CNN, 60 ViT")
    identities_per_batch: PositiveInt = Field(8, description="P of P×K; paper 16")
    crops_per_identity: PositiveInt = Field(4, description="K of P×K")
    learning_rate: float = Field(3e-3, gt=0, description="Adam; paper 3.5e-4 (CNN)")
    weight_decay: float = Field(5e-4, ge=0, description="of Adam, on weights and not on biases")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up, in epochs")
    schedule: Literal["cosine", "steps"] = Field(
        "cosine", description="cosine step by step, or CLIP-ReID's steps, one rate per epoch"
    )
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="end of the cosine, times the rate")
    warmup_factor: float = Field(
        0.01, ge=0, le=1, description="start of the warm-up of steps; CLIP-ReID's ViT 0.1"
    )
    milestones: tuple[PositiveInt, ...] = Field(
        (40, 70), description="epochs from which steps are lower; CLIP-ReID's ViT 30 and 50"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each of the steps")
    bias_lr_factor: float = Field(
        1.0, gt=0, description="rate of biases, times that of weights; CLIP-ReID 2"
    )
    head: HeadSettings = HeadSettings()
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()


class TeachConfig(Settings):
    """`pivl-distill teach`."""

    data: DataSettings = DataSettings()
    clip: ClipSettings = ClipSettings()
    prompts: PromptSettings = PromptSettings()
    tuning: TuningSettings = TuningSettings()
    stage2: Stage2Settings = Stage2Settings(
        epochs=6, learning_rate=5e-4, loss=LossSettings(align=1.0, text_scale=2.0)
    )
    device: Device = Field("auto", description="auto takes a CUDA device where there is one")
    seed: int = Field(0, ge=0, description="of tokens, data order and augmentation")


class StudentConfig(Settings):
    """`pivl-distill student`."""

    data: DataSettings = DataSettings()
    arch: str = Field("mobilenetv2_025", description="mobilenetv2_025 or any timm model")
    pretrained: str = Field(
        "auto", description="auto, embedded, timm, none or a file: where training starts from"
    )
    last_stride: Literal["auto", 1, 2] = Field("auto", description="stride of the last CNN stage")
    supervision: Literal["none", "identity", "part", "label", "permuted"] = Field(
        "part",
        description="none: no bank; identity: Eq. 3 alone; part: Eq. 3 and 11; label: part texts"
        " without identity; permuted: texts of other identities (control)",
    )
    stage2: Stage2Settings = Stage2Settings()
    trust_pids: bool = Field(
        False, description="take a bank that was made from none of these images of its identities"
    )
    device: Device = Field("auto", description="auto takes a CUDA device where there is one")
    seed: int = Field(0, ge=0, description="of new layers, data order and augmentation")


def load_config(
    model: type[Config],
    section: str,
    source: str | None,
    overrides: dict[str, Any],
    begun: str | None = None,
) -> Config:
    """Settings from defaults, then section `section` of YAML `source`, then `overrides`.

    `source` is a file or the name of one in `configs/`; `overrides` maps dotted keys to values.
    `begun` is the config.yaml of a run to be continued, which comes before both. Raises PivlError
    that lists every mistake.
    """
    values: dict[str, Any] = {}
    for name in filter(None, (begun, source)):
        values = _merge(values, _read_yaml(_find_config(name)).get(section) or {})
    for key, value in overrides.items():
        _set(values, key, value)
    merged = _merge(model().model_dump(), values)
    return validate_settings(model, merged, source or begun or "the command line")


def validate_settings(model: type[Config], values: dict[str, Any], where: str) -> Config:
    """`values` as settings; PivlError that says `where` they come from and lists every mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise PivlError("\n".join([f"Bad settings in {where}:", *lines])) from error


def dump_config(config: Settings, section: str) -> str:
    """The resolved settings as YAML that `load_config` reads back."""
    return yaml.safe_dump({section: config.model_dump(mode="json")}, sort_keys=False)


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value`; the value is read as YAML: `3`, `1e-3`, `true`, `[256, 128]`."""
    key, separator, value = text.partition("=")
    mistake = PivlError(f"--set takes key=value, such as stage2.epochs=30; got '{text}'.")
    if not separator or not key:
        raise mistake
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise mistake from error
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    return key, parsed


def _find_config(source: str) -> Path:
    for path in (Path(source), CONFIGS_DIR / f"{source}.yaml"):
        if path.is_file():
            return path
    raise unknown_name("configuration", source, (p.stem for p in CONFIGS_DIR.glob("*.yaml")))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PivlError(f"{path} is not readable YAML: {error}") from error
    sections = {"teach", "student"}
    if not isinstance(content, dict):
        raise PivlError(f"{path} must hold sections {' and '.join(sorted(sections))}.")
    for key, section in content.items():
        if key not in sections:
            raise unknown_name(f"section of {path}", str(key), sections)
        if not isinstance(section, dict | None):
            raise PivlError(f"The section '{key}' of {path} must hold settings, not {section!r}.")
    return content


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        if not isinstance(values.setdefault(parent, {}), dict):
            raise PivlError(f"'{dotted}' asks for a setting inside '{parent}', which is a value.")
        values = values[parent]
    values[last] = value


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(model: type[BaseModel], problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"  {path}: {problem['msg']} (got {problem['input']!r})"
    *parents, unknown = problem["loc"]
    for parent in parents:
        annotation = model.model_fields[str(parent)].annotation
        model = annotation if isinstance(annotation, type) else model
    near = difflib.get_close_matches(str(unknown), model.model_fields, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"  {path}: unknown setting{hint} Known here: {', '.join(model.model_fields)}"
