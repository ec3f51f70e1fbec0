"""CLIPs by name: unknown names are errors, and the joint dimension needs no weights."""

from __future__ import annotations

import pytest

from pivl_distill.errors import PivlError
from teachers.clip_loading import joint_dim, load_clip


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(PivlError, match="Unknown CLIP 'tiny_rm'; did you mean 'tiny_rn'"):
        load_clip("tiny_rm", "embedded", (128, 64))
    with pytest.raises(PivlError, match="Unknown CLIP 'RN5'; did you mean 'RN50"):
        load_clip("RN5", "openai", (256, 128))


def test_joint_dim_is_the_dimension_of_the_text_features(make_clip):
    assert joint_dim("tiny_rn") == make_clip("tiny_rn").text.dim
    assert joint_dim("RN50-quickgelu") == joint_dim("RN50") == 1024
    with pytest.raises(PivlError, match="Unknown CLIP 'RN5'; did you mean 'RN50"):
        joint_dim("RN5")
