"""Half precision: where it is used, where it is not, and training with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pivl_distill.config import HeadSettings, LossSettings, Stage2Settings
from pivl_distill.runs.progress import Progress
from pivl_distill.runs.run import Run
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.precision import half_dtype, loss_scaler
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from stubs import MapStub

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))
SETTINGS = Stage2Settings(epochs=2, identities_per_batch=4, crops_per_identity=2)


def stub() -> MapStub:
    return MapStub(8, 6, dim=16)


@pytest.fixture
def text_features(prompt_bank) -> TextFeatures:
    return TextFeatures.from_bank(prompt_bank, LossSettings(), HeadSettings())


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_on_gpus_that_support_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert half_dtype("auto", CUDA) is (torch.bfloat16 if native else None)
    assert half_dtype("auto", CPU) is None
    assert half_dtype("float32", CUDA) is None
    assert half_dtype("float16", CUDA) is half_dtype("float16", CPU) is torch.float16
    assert half_dtype("bfloat16", META) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_encoder_uses_half_precision_and_heads_float32(band_store, text_features, precision, parts):
    settings = SETTINGS.model_copy(update={"precision": precision, "accumulate": parts})
    network = stub().train()
    dtypes: dict[str, torch.dtype] = {}
    for name in ("encoder", "neck", "project"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: dtypes.update({name: output.dtype})
        )
    network.neck.register_forward_pre_hook(
        lambda _module, inputs: dtypes.update(feature=inputs[0].dtype)
    )
    stage = Stage2Trainer(network, band_store, Supervision(texts=text_features), settings)
    terms = stage.step(np.arange(8), np.random.default_rng(0), 0.5)
    assert dtypes.pop("encoder") is getattr(torch, precision)
    assert dtypes == dict.fromkeys(("feature", "neck", "project"), torch.float32)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_half_precision_changes_a_step_only_by_rounding(band_store, text_features):
    gradients = {}
    for precision in ("auto", "float32", "bfloat16", "float16"):
        settings = SETTINGS.model_copy(update={"precision": precision})
        network = stub().train()
        stage = Stage2Trainer(network, band_store, Supervision(texts=text_features), settings)
        stage.scaler = torch.amp.GradScaler("cpu", 256.0, enabled=precision == "float16")
        stage.step(np.arange(8), np.random.default_rng(0), 0.5)
        gradients[precision] = network.encoder.weight.grad  # Adam removes the scale
    assert torch.equal(gradients["auto"], gradients["float32"])
    for precision, share in (("bfloat16", 0.05), ("float16", 0.01)):
        gap = (gradients[precision] - gradients["float32"]).norm() / gradients["float32"].norm()
        assert 0 < gap < share


def test_only_float16_scales_the_loss():
    assert loss_scaler(torch.float16, CPU).is_enabled()
    assert not loss_scaler(torch.bfloat16, CPU).is_enabled()
    assert not loss_scaler(None, CPU).is_enabled()


def test_overflowing_step_is_skipped_and_lowers_the_scale(band_store, text_features):
    network = stub().train()
    stage = Stage2Trainer(
        network,
        band_store,
        Supervision(texts=text_features),
        SETTINGS.model_copy(update={"precision": "float16"}),
    )
    before, scale = network.encoder.weight.clone(), stage.scaler.get_scale()
    handle = network.encoder.weight.register_hook(lambda gradient: gradient * torch.inf)
    stage.step(np.arange(8), np.random.default_rng(0), 0.5)
    assert torch.equal(network.encoder.weight, before)
    assert stage.scaler.get_scale() == scale / 2
    handle.remove()
    stage.step(np.arange(8), np.random.default_rng(0), 0.5)
    assert not torch.equal(network.encoder.weight, before)


def test_loss_scale_is_restored_on_resume(band_store, tmp_path, monkeypatch):
    """An interrupted run continues with the saved loss scale."""
    settings = SETTINGS.model_copy(update={"precision": "float16"})
    scales: list[float] = []
    step = Stage2Trainer.step

    def record_scale(self, *args):
        scales.append(self.scaler.get_scale())
        if len(scales) == 4:
            raise KeyboardInterrupt
        terms = step(self, *args)
        self.scaler.update(self.scaler.get_scale() / 2)
        return terms

    monkeypatch.setattr(Stage2Trainer, "step", record_scale)
    monkeypatch.setattr("pivl_distill.runs.progress.SAVE_PERIOD_S", 0.0)
    run = Run.create("student", "", tmp_path / "run")
    for _sitting in range(2):
        sitting = Run(run.path)
        assert isinstance(sitting.progress, Progress)
        try:
            with sitting.progress.session("student"):
                train(stub(), band_store, Supervision(), settings, 0, sitting, "Training")
        except KeyboardInterrupt:
            pass
    assert scales[4] == scales[3] < scales[2]  # the fourth step, started twice
    assert len(scales) > 5
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[1])["epoch"] == 2


def test_float16_scaling_starts_anew_after_another_format():
    scaler = loss_scaler(torch.float16, CPU)
    scaler.load_state_dict(loss_scaler(None, CPU).state_dict())
    assert scaler.get_scale() == loss_scaler(torch.float16, CPU).get_scale()
    saved = scaler.state_dict() | {"scale": 8.0}
    scaler.load_state_dict(saved)
    assert scaler.get_scale() == 8.0
