"""Run folders: settings, summary, contract and saved progress of runs that are read and resumed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from fuzz.case import Case
from fuzz.mutation import damaged, edited_json, edited_safetensors
from fuzz.uses import use_each
from pivl_distill.app.run_location import RunLocation
from pivl_distill.config import StudentConfig
from pivl_distill.config.loading import dump_config
from pivl_distill.data.sampling import PKSampler
from pivl_distill.runs.progress import KIND
from pivl_distill.runs.run import Run
from pivl_distill.runs.saved_progress import SavedProgress
from pivl_distill.runs.state import OptimizerState, TorchRngState, pack_state
from pivl_distill.storage.tensors import save_tensors

CONFIG = StudentConfig()
SAMPLER = PKSampler(np.repeat(np.arange(2), 4), 2, 2, epochs=2, seed=0)
STAGE = "reid"
PINNED = {"config": CONFIG.model_dump(mode="json"), "dataset": {"name": "somewhere"}}
_METRICS = '{"stage": "reid", "epoch": 1, "loss": 0.5}\n'
_OTHER_KINDS = (b"teach:\n", b"export:\n", b"x", b"", b"\xff\xfe", b"student: [1]\n", b"[" * 99)


def _parts() -> dict[str, Any]:
    """A small network and its optimizer, after one step."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": OptimizerState(optimizer)}


@cache
def _files() -> dict[str, bytes]:
    tensors: dict[str, torch.Tensor] = {}
    states = {
        name: pack_state(part.state_dict(), name, tensors)
        for name, part in {**_parts(), "torch": TorchRngState()}.items()
    }
    step = next(iter(SAMPLER))
    rng = dict(step.rng.bit_generator.state)
    saved = SavedProgress(STAGE, 1, rng, {STAGE: 2.5}, _METRICS, states)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "progress.safetensors"
        save_tensors(path, KIND, tensors, asdict(saved))
        progress = path.read_bytes()
    pinned = {**PINNED, "bank": {"file": "bank.safetensors"}, "machine": {"processor": "x"}}
    return {
        "config.yaml": dump_config(CONFIG, "student").encode(),
        "metrics.jsonl": _METRICS.encode(),
        "state/contract.json": json.dumps(pinned).encode(),
        "state/progress.safetensors": progress,
    }


def cases() -> st.SearchStrategy[Case]:
    """An unfinished run, or a finished one with its `run.json`."""
    files = _files()
    summary = {"kind": "student", "retrieval": {"mAP": 0.5}, "source": "x", "camera": None}
    configs = st.just(files["config.yaml"]) | damaged(files["config.yaml"], _OTHER_KINDS)
    contents = {
        "config.yaml": configs | st.sampled_from(_OTHER_KINDS),
        "metrics.jsonl": st.just(files["metrics.jsonl"]) | st.binary(max_size=9),
        "state/contract.json": edited_json(files["state/contract.json"]),
        "state/progress.safetensors": st.just(files["state/progress.safetensors"])
        | edited_safetensors(files["state/progress.safetensors"]),
        "run.json": edited_json(json.dumps(summary).encode()),
    }
    unfinished = {name: content for name, content in contents.items() if name != "run.json"}
    # Most cases damage one file, so that the others are read as well.
    one = st.sampled_from(sorted(unfinished)).flatmap(
        lambda name: unfinished[name].map(lambda data: Case({**files, name: data}))
    )
    several = st.fixed_dictionaries(unfinished).map(Case)
    finished = st.fixed_dictionaries(
        {name: contents[name] for name in ("config.yaml", "metrics.jsonl", "run.json")}
    ).map(Case)
    return one | one | several | finished


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Resume the run and make its next step, or read its summary; nothing else is lost."""
    run = out / "run"
    shutil.copytree(given, run)
    if (run / "run.json").is_file():
        opened = Run.open(run)
        use_each(lambda: opened.kind, lambda: opened.data_settings)
        return
    try:
        use_each(
            lambda: Run(run).is_stopped,
            lambda: Run(run).data_settings,
            lambda: RunLocation(resume=run).resumed_bank,
            lambda: _resume(run),
        )
    finally:
        names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        assert names - {"state/lock", "crash.log"} == set(_files())


def _resume(path: Path) -> None:
    run, parts = Run.open_unfinished("student", path), _parts()
    with run.progress.session("student", dump_config(CONFIG, "student"), **PINNED):
        run.progress.start_stage(STAGE)
        steps = run.progress.remaining_steps(STAGE, SAMPLER, **parts)
        for _ in steps:
            break
        assert len(steps) <= len(SAMPLER)
