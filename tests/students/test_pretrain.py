"""The pretraining script on a few crops, and the pretrained weights in the repository."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from click.testing import CliRunner

from pivl_distill.data.synthetic.people import person
from pivl_distill.storage.tensors import load_tensors
from students.backbones import create_backbone
from students.pretrain import (
    ATTRIBUTES,
    KIND,
    RECIPE,
    attribute_classes,
    attribute_labels,
    attribute_loss,
    main,
)
from students.start import WEIGHTS_DIR

SHIPPED = WEIGHTS_DIR / "mobilenetv2_025.safetensors"


def test_script_writes_weights_that_a_student_can_load(tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    result = CliRunner().invoke(main, ["--crops", "64", "--passes", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    _, tensors, metadata = load_tensors(out, KIND)
    assert metadata["unseen_people"].keys() == ATTRIBUTES.keys()
    network = create_backbone("mobilenetv2_025", image_size_hw=(128, 64), pretrained=str(out))
    assert torch.equal(network.conv_stem.weight.half(), tensors["conv_stem.weight"])


def test_labels_name_the_attributes() -> None:
    people = tuple(person(3, index, 1) for index in range(40))
    classes = attribute_classes(people)
    labels = attribute_labels(people, classes)
    for row, someone in zip(labels.tolist(), people, strict=True):
        for number, (name, value) in zip(row, ATTRIBUTES.items(), strict=True):
            assert classes[name][number] == value(someone)


def test_loss_is_the_mean_over_attributes() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, 1.0, 1.0]])
    expected = (torch.log1p(torch.tensor(-2.0).exp()) + torch.log(torch.tensor(3.0))) / 2
    assert torch.allclose(attribute_loss(logits, torch.tensor([[0, 2]]), [2, 3]), expected)


def test_shipped_weights_are_small_and_made_by_the_recipe() -> None:
    assert SHIPPED.stat().st_size <= 600_000
    _, _, metadata = load_tensors(SHIPPED, KIND)
    assert metadata["recipe"] == dataclasses.asdict(RECIPE)
    assert set(metadata["unseen_people"]) == set(ATTRIBUTES)
