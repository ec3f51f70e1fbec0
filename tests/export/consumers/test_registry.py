"""Names of consumers on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export.consumers.registry import CONSUMERS, check_pythons, parse_consumers
from pivl_distill.errors import PivlError


def test_names_may_be_joined_and_repeated():
    assert parse_consumers(["boxmot", "boxmot,boxmot"]) == [CONSUMERS["boxmot"]]
    assert parse_consumers([]) == []


def test_every_consumer_is_known_by_its_name():
    assert all(name == consumer.name for name, consumer in CONSUMERS.items())


@pytest.mark.parametrize("name", ["boxmott", "", "boxmot,"])
def test_unknown_names_are_refused(name):
    with pytest.raises(PivlError, match="Unknown consumer"):
        parse_consumers([name])


def test_a_python_of_a_consumer_that_is_not_made_is_refused():
    with pytest.raises(PivlError, match="names 'openvino', but --for does not"):
        check_pythons({"openvino": Path(sys.executable)}, parse_consumers(["boxmot"]))
