"""ONNX parsers on graphs with a known output, and files that contradict their settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from pivl_distill.data.part_maps import FULL_CONFIDENCE
from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput
from pivl_distill.parsing.onnx_parser import OnnxParser

LABELS = np.array([[0, 1], [2, 3], [3, 1], [1, 0]], np.uint8)
"""Each label becomes a square of pixels, so that resizing does not mix colours at its centre."""


def blocks(side: int) -> np.ndarray:
    return LABELS.repeat(side, axis=0).repeat(side, axis=1)


@pytest.fixture
def crops(coloured) -> list[ParserInput]:
    """The same image at three sizes."""
    return [ParserInput(Path(f"{side}.png"), coloured(blocks(side))) for side in (4, 8, 2)]


@pytest.mark.parametrize("form", ["logits_nchw", "logits_nhwc", "labels"])
def test_every_output_form_yields_maps_in_the_crops_size(
    colour_net, colour_settings, crops, form
) -> None:
    parser = OnnxParser("colours", colour_settings(colour_net(form=form), output_form=form))
    maps = [part_map.labels for part_map in parser.parse(crops)]
    np.testing.assert_array_equal(maps[0], blocks(4))
    for labels, side in zip(maps[1:], (8, 2), strict=True):
        assert labels.shape == (4 * side, 2 * side)
        assert labels.dtype == np.uint8
        middle = slice(side // 2, None, side)
        np.testing.assert_array_equal(labels[middle, middle], LABELS)


def test_channels_are_in_the_order_of_the_settings(colour_net, colour_settings, crops) -> None:
    parser = OnnxParser("colours", colour_settings(colour_net(), colour_order="bgr"))
    swapped = np.array([0, 3, 2, 1], np.uint8)[blocks(4)]
    np.testing.assert_array_equal(parser.parse(crops[:1])[0].labels, swapped)


def test_pixels_are_normalised_by_mean_and_std(colour_net, colour_settings, crops) -> None:
    """(1 − .8)/.1 = 2 exceeds the background's .5; (1 − .8)/1 = .2 does not."""
    narrow = colour_settings(colour_net(), mean=(0.8, 0.8, 0.8), std=(1.0, 0.1, 1.0))
    only_green = np.where(blocks(4) == 2, 2, 0)
    np.testing.assert_array_equal(OnnxParser("c", narrow).parse(crops[:1])[0].labels, only_green)


def test_letterbox_border_is_not_in_the_map(colour_net, colour_settings, coloured) -> None:
    file = colour_net(size_hw=(32, 32))
    parser = OnnxParser("c", colour_settings(file, size_hw=(32, 32), resize="letterbox"))
    crop = ParserInput(Path("a.png"), coloured(blocks(8)))
    np.testing.assert_array_equal(parser.parse([crop])[0].labels, blocks(8))


def test_fixed_batch_graph_accepts_any_number_of_crops(colour_net, colour_settings, crops) -> None:
    parser = OnnxParser("colours", colour_settings(colour_net(batch=3), batch_size=16))
    assert parser.batch_size == 3
    maps = parser.parse(crops[:1])
    assert len(maps) == 1
    np.testing.assert_array_equal(maps[0].labels, blocks(4))


def test_half_precision_graphs_run(colour_net, colour_settings, crops) -> None:
    parser = OnnxParser("colours", colour_settings(colour_net(dtype=TensorProto.FLOAT16)))
    np.testing.assert_array_equal(parser.parse(crops[:1])[0].labels, blocks(4))


def test_confidence_is_returned_with_the_map(colour_net, colour_settings, crops) -> None:
    """Scaled, the logits of a pure pixel are 10, 5, 0 and 0: .993 for the best of six classes."""
    settings = colour_settings(colour_net(scale=10.0), write_confidence=True)
    (part_map,) = OnnxParser("c", settings).parse(crops[:1])
    assert part_map.confidence.shape == part_map.labels.shape
    assert (part_map.confidence > 0.9 * FULL_CONFIDENCE).all()
    (faint,) = OnnxParser("c", colour_settings(colour_net(scale=1.0), write_confidence=True)).parse(
        crops[:1]
    )
    assert (faint.confidence < 0.5 * FULL_CONFIDENCE).all()
    np.testing.assert_array_equal(faint.labels, part_map.labels)


def test_pixels_below_min_confidence_are_ignored(colour_net, colour_settings, crops) -> None:
    """Of six classes, logits 1 and .5 and two 0 give at most .4."""
    settings = colour_settings(colour_net(scale=1.0), min_confidence=0.5)
    assert (OnnxParser("c", settings).parse(crops[:1])[0].labels == IGNORE).all()
    settings = colour_settings(colour_net(scale=10.0), min_confidence=0.5)
    np.testing.assert_array_equal(OnnxParser("c", settings).parse(crops[:1])[0].labels, blocks(4))


def test_metadata_depend_on_file_and_settings_but_not_on_the_path(
    colour_net, colour_settings, tmp_path
) -> None:
    first = OnnxParser("c", colour_settings(colour_net())).metadata
    moved = (tmp_path / "colours.onnx").rename(tmp_path / "moved.onnx")
    assert OnnxParser("c", colour_settings(moved, batch_size=2)).metadata == first
    assert OnnxParser("c", colour_settings(moved, colour_order="bgr")).metadata != first
    assert OnnxParser("c", colour_settings(colour_net(scale=5.0))).metadata != first


@pytest.mark.parametrize(
    ("graph", "settings", "sentence"),
    [
        (
            {},
            {"vocabulary": "lip20"},
            r"shape \[1, 6, 16, 8\], but lip20 .* require \[1, 20, h, w\]",
        ),
        ({"form": "logits_nhwc"}, {}, r"shape \[1, 16, 8, 6\], .* require \[1, 6, h, w\]"),
        ({}, {"output_form": "logits_nhwc"}, r"shape \[1, 6, 16, 8\], .* require \[1, h, w, 6\]"),
        ({}, {"output_form": "labels"}, r"require \[1, h, w\] or \[1, 1, h, w\]"),
        (
            {},
            {"size_hw": (32, 16)},
            r"takes an input of shape .*16, 8\], .* declare .*32, 16\]; correct",
        ),
        (
            {"extra_output": True, "form": "labels"},
            {},
            "several outputs: choose one .* ids .* scores",
        ),
        ({}, {"output": "parsing"}, "has no output 'parsing'; it has scores"),
        ({"dtype": TensorProto.UINT8}, {}, "takes tensor\\(uint8\\); a parser must take float32"),
        ({"overflow": float("inf")}, {}, "scores that are not finite"),
    ],
)
def test_files_that_contradict_the_settings_are_rejected(
    colour_net, colour_settings, crops, graph, settings, sentence
) -> None:
    file = colour_net(**graph)
    with pytest.raises(PivlError, match=sentence) as caught:
        OnnxParser("c", colour_settings(file, **settings)).parse(crops[:1])
    assert str(file) in str(caught.value)


def test_ids_outside_the_vocabulary_are_rejected(colour_net, colour_settings, crops) -> None:
    file = colour_net(form="labels", classes=9, last_bias=9.0)
    parser = OnnxParser("c", colour_settings(file, output_form="labels"))
    with pytest.raises(
        PivlError, match="returned class id 8, but coarse6 ends at 5; name its vocabulary"
    ):
        parser.parse(crops)


def test_missing_and_unreadable_files_raise(colour_settings, tmp_path) -> None:
    with pytest.raises(PivlError, match="no ONNX file at"):
        OnnxParser("c", colour_settings(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(PivlError, match="cannot load"):
        OnnxParser("c", colour_settings(tmp_path / "text.onnx"))
