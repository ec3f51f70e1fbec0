"""What all settings share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pivl_distill.config import DataSettings, Settings


def test_settings_are_immutable_and_documented():
    with pytest.raises(ValidationError):
        DataSettings().spec = "other"
    silent = [
        f"{model.__name__}.{name}"
        for model in Settings.__subclasses__()
        for name, field in model.model_fields.items()
        if not field.description and not isinstance(field.default, Settings)
    ]
    assert silent == []
