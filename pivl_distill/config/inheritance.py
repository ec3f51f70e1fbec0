"""Data settings of a student: those the user gave, the others inherited from its bank's run.

A student that trains on other crops than those of its bank learns nothing from the bank, so each
data setting that is not given is inherited separately. Three exceptions: the cache limit, which
does not affect results; whether to evaluate, which the user decides for every run; and a folder of
parsing maps if the user gives another data set, because maps belong to the images of one data set.
"""

from __future__ import annotations

from collections.abc import Mapping

from pivl_distill.config.data import DataSettings

NOT_INHERITED = ("crop_cache_gib", "evaluation")


def inherit_data_settings(
    own: DataSettings, given: Mapping[str, str], inherited: DataSettings, source: str
) -> tuple[DataSettings, dict[str, str]]:
    """Return the merged settings and, for each of them by name, where its value comes from.

    A folder of parsing maps is inherited only together with its data set.

    Args:
        own: settings of the new run, defaults included.
        given: origin of the settings that the user gave, by dotted name, such as "data.spec".
        inherited: settings of the bank's run.
        source: name of the bank's run.
    """
    values, origins = own.model_dump(), {}
    other_data = "data.spec" in given and own.spec != inherited.spec
    for name in DataSettings.model_fields:
        if f"data.{name}" in given:
            origins[name] = given[f"data.{name}"]
        elif name in NOT_INHERITED or (name == "parsing" and other_data):
            origins[name] = "default"
        else:
            values[name] = getattr(inherited, name)
            origins[name] = source
    return DataSettings.model_validate(values), origins


def describe_data_settings(data: DataSettings, origins: Mapping[str, str]) -> str:
    """One line that names the value and the origin of each setting that changes results."""
    values = {
        "spec": data.spec,
        "parsing": "the data set's own" if data.parsing is None else str(data.parsing),
        "size_hw": f"{data.size_hw[0]}×{data.size_hw[1]}",
    }
    parts = [f"{name} {value} ({origins[name]})" for name, value in values.items()]
    return f"Data settings: {', '.join(parts)}."
