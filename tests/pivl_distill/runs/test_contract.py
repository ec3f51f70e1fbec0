"""Resuming with other settings, data or banks is refused; another machine is reported."""

from __future__ import annotations

import pytest

from pivl_distill.config import Stage2Settings, TuningSettings
from pivl_distill.errors import PivlError
from pivl_distill.runs.contract import OPTIMISATION, Contract
from small_run import STEPS_PER_EPOCH
from stopped_runs import Killed, kill_process

PINNED = {
    "config": {"seed": 0, "stage2": {"epochs": 3, "loss": {"align": 5.0}}},
    "data": {"name": "market1501", "images": "ab", "maps": None},
    "bank": {"file": "/here/bank", "sha256": "12"},
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": {"seed": 1, "stage2": {"epochs": 3}}}, "config.seed was 0, now 1"),
        ({"config": {"seed": 0, "stage2": {"epochs": 4}}}, "config.stage2.epochs was 3, now 4"),
        ({"config": {"seed": 0, "stage2": {}}}, "config.stage2.loss was {'align': 5.0}, now None"),
        ({"config": PINNED["config"] | {"new": 1}}, "config.new was None, now 1"),
        ({"data": PINNED["data"] | {"images": "cd"}}, "data.images was ab, now cd"),
        ({"data": PINNED["data"] | {"maps": "ef"}}, "data.maps was None, now ef"),
        ({"bank": {"file": "/here/bank", "sha256": "34"}}, "bank.sha256 was 12, now 34"),
        ({"bank": None}, "bank was {'file': '/here/bank', 'sha256': '12'}, now None"),
    ],
)
def test_resume_with_changed_values_is_refused(
    train_run, call_at_step, tmp_path, changes, sentence
):
    call_at_step(STEPS_PER_EPOCH + 1, kill_process)
    with pytest.raises(Killed):
        train_run(**PINNED)
    files = [p for p in sorted((tmp_path / "run").rglob("*")) if p.is_file() and p.name != "lock"]
    before = [path.read_bytes() for path in files]
    with pytest.raises(PivlError) as refused:
        train_run(**PINNED | changes)
    assert f"{tmp_path / 'run'} was started with something else:" in str(refused.value)
    assert f"\n  {sentence}\n" in str(refused.value)
    assert [path.read_bytes() for path in files] == before


def test_every_difference_is_listed(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(**PINNED)
    with pytest.raises(PivlError) as refused:
        contract.pin(config={"seed": 7, "stage2": {"epochs": 9, "loss": {"align": 5.0}}})
    lines = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert lines == ["  config.seed was 0, now 7", "  config.stage2.epochs was 3, now 9"]


def test_long_values_are_cut_in_messages(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(config=None)
    with pytest.raises(PivlError, match=r"\n  config was None, now \{'seed': '9+…\n") as refused:
        contract.pin(config={"seed": "9" * 5000})
    assert len(str(refused.value)) < 500


def test_each_difference_is_one_line(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(config="a\nb")
    with pytest.raises(PivlError, match=r"\n  config was a b, now c\n"):
        contract.pin(config="c")


def test_bank_may_move(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(**PINNED)
    contract.pin(bank={"file": "/there/bank", "sha256": "12"})
    assert contract.values["bank"]["file"] == "/there/bank"


def test_another_machine_is_reported_not_refused(tmp_path, caplog):
    contract = Contract(tmp_path)
    contract.pin(machine={"device": "cpu", "threads": 2})
    contract.pin(machine={"device": "cpu", "threads": 2})
    assert caplog.text == ""
    contract.pin(machine={"device": "cpu", "threads": 8})
    assert "last bits" in caplog.text
    assert "machine.threads was 2, now 8" in caplog.text


def test_later_values_are_added(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(config={"seed": 0})
    contract.pin(bank="12")
    assert Contract(tmp_path).values == {"config": {"seed": 0}, "bank": "12"}


OPTIMISED = {"seed": 0, "tuning": {"learning_rate": 0.1}, "stage2": {"learning_rate": 1.0}}


def test_the_optimisation_may_change(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(config=OPTIMISED)
    now = OPTIMISED | {"tuning": {"learning_rate": 0.2}, "stage2": {"learning_rate": 0.5}}
    assert contract.changed_optimisation(config=now) == {
        "tuning.learning_rate": (0.1, 0.2),
        "stage2.learning_rate": (1.0, 0.5),
    }
    contract.pin(config=now)
    assert contract.changed_optimisation(config=now) == {}
    with pytest.raises(PivlError, match=r"config\.seed was 0, now 3\nUndo"):
        contract.pin(config=OPTIMISED | {"seed": 3})


def test_the_tuning_of_a_written_bank_does_not_change(tmp_path):
    contract = Contract(tmp_path)
    contract.pin(config=OPTIMISED, bank="12")
    now = OPTIMISED | {"tuning": {"learning_rate": 0.2}}
    with pytest.raises(PivlError, match=r"config\.tuning\.learning_rate was 0\.1, now 0\.2"):
        contract.pin(config=now, bank="12")


def test_settings_of_the_optimisation_exist():
    fields = {"tuning": TuningSettings.model_fields, "stage2": Stage2Settings.model_fields}
    for section, names in OPTIMISATION.items():
        assert set(names) <= fields[section].keys()


def test_evaluation_may_change(tmp_path):
    """The trained weights do not depend on it."""
    contract = Contract(tmp_path)
    contract.pin(config={"data": {"evaluation": True}})
    contract.pin(config={"data": {"evaluation": False}})
    assert contract.values == {"config": {"data": {"evaluation": False}}}
