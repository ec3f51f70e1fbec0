"""The script that makes the embedded parser, in small, and the parser in the repository."""

from __future__ import annotations

import ast
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from pivl_distill.data.vocabulary import LIP20
from pivl_distill.parsing import pretrain
from pivl_distill.parsing.part_unet import PartUNet
from pivl_distill.parsing.pretrain import RECIPE, class_weights, facing_loss, main, train
from pivl_distill.runtime.onnx_session import open_session


def test_the_script_writes_a_parser_that_scores_as_the_network_does(tmp_path, monkeypatch) -> None:
    trained: list[PartUNet] = []
    monkeypatch.setattr(
        pretrain, "train", lambda recipe: trained.append(train(recipe)) or trained[0]
    )
    monkeypatch.setattr(pretrain, "UNSEEN_PEOPLE", 20)
    out = tmp_path / "parser.onnx"
    result = CliRunner().invoke(main, ["--crops", "64", "--passes", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "mIoU" in result.output
    assert metadata(out)["recipe"] == asdict(replace(RECIPE, crops=64, passes=1))
    images = torch.randn(3, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    (logits,) = open_session(out).run(None, {"images": images.numpy()})
    assert logits.shape == (3, 20, 64, 32)
    with torch.inference_mode():
        np.testing.assert_allclose(logits, trained[0](images).numpy(), rtol=1e-4, atol=1e-4)


def test_facing_away_swaps_left_and_right() -> None:
    torch.manual_seed(0)
    network, images = PartUNet(LIP20).eval(), torch.randn(1, 3, 32, 16)
    with torch.inference_mode():
        network.facing.weight.zero_()
        network.facing.bias.fill_(50.0)
        towards = network(images)
        network.facing.bias.fill_(-50.0)
        away = network(images)
    swapped = away[:, torch.from_numpy(LIP20.mirror[:20]).long()]
    torch.testing.assert_close(towards, swapped)
    assert not torch.allclose(towards, away)


def test_facing_is_inferred_from_the_positions_of_left_and_right_labels() -> None:
    left, right = LIP20.index("Left-shoe"), LIP20.index("Right-arm")
    labels = torch.zeros(3, 4, 8, dtype=torch.long)
    labels[0, 0, 6], labels[0, 2, 1] = left, right  # faces the camera
    labels[1, 0, 1], labels[1, 2, 6] = left, right  # faces away
    labels[2, 0, 6] = left  # one side only: not part of the loss
    logits = torch.tensor([2.0, -1.0, -30.0])
    expected = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-1.0))) / 2
    torch.testing.assert_close(facing_loss(logits, labels), expected)


def test_rare_classes_weigh_more() -> None:
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[0, 0, :10] = 1
    weights = class_weights(labels)
    assert weights[1] / weights[0] == pytest.approx((9990 / 10) ** 0.25, rel=1e-5)


def test_shipped_parser_is_small_and_made_by_the_recipe() -> None:
    assert pretrain.WEIGHTS.stat().st_size <= 550_000
    assert metadata(pretrain.WEIGHTS)["recipe"] == asdict(RECIPE)


def test_the_shipped_parser_finds_parts_of_unseen_people() -> None:
    """Fewer people and cameras than its own figures are from, so a little room below them."""
    from pivl_distill.data.synthetic.crops import render_crops
    from pivl_distill.parsing.base import ParserInput
    from pivl_distill.parsing.map_statistics import ConfusionMatrix
    from pivl_distill.parsing.onnx_parser import OnnxParser
    from pivl_distill.parsing.settings import load_parser_settings

    crops = render_crops(pretrain.UNSEEN_SEED, 60, pretrain.UNSEEN_CAMERAS)
    parser = OnnxParser("embedded", load_parser_settings("embedded"))
    predictions = parser.parse([ParserInput(Path(), image) for image in crops.images])
    agreement = ConfusionMatrix(len(LIP20))
    for labels, prediction in zip(crops.labels, predictions, strict=True):
        agreement.add(labels, prediction.labels)
    recorded = metadata(pretrain.WEIGHTS)["unseen_people_iou"]
    assert agreement.mean_iou > np.mean(list(recorded.values())) - 0.06


def metadata(path: Path) -> dict[str, dict]:
    return {p.key: ast.literal_eval(p.value) for p in onnx.load(str(path)).metadata_props}
