"""Where a run that is resumed finds its bank."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivl_distill.app.run_location import RunLocation
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import write_json


def test_bank_is_that_of_the_contract(tmp_path: Path) -> None:
    location = RunLocation(resume=tmp_path)
    assert RunLocation(out=tmp_path).resumed_bank is None
    assert location.resumed_bank is None
    write_json(tmp_path / "state" / "contract.json", {"bank": {"file": "/here/bank"}})
    assert location.resumed_bank == "/here/bank"


@pytest.mark.parametrize("bank", ["x", 3, [], {}, {"file": None}])
def test_damaged_contract_is_named(tmp_path: Path, bank: object) -> None:
    write_json(tmp_path / "state" / "contract.json", {"bank": bank})
    with pytest.raises(PivlError, match=r"contract\.json is damaged: it does not name the bank"):
        _ = RunLocation(resume=tmp_path).resumed_bank
