"""Exported students beside the networks of others, by one clock: `deployed`.

All files, ONNX included, run in OpenVINO on the CPU, interleaved, with a batch of one crop. Scores
of rivals are those that `rivals` measured, and scores of students those that `export` measured of
the same file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import openvino

from benchmarks.experiment import RESULTS, Arm, Experiment, ResultFile, Row, read
from benchmarks.harness import THREADS, interleaved, median
from benchmarks.market1501.files import Files, root_option
from benchmarks.market1501.rivals import RIVALS
from export.manifest_schema import read_manifest
from pivl_distill.runtime.openvino_session import shared_core
from pivl_distill.storage.output_path import OutputPath

DEPLOYED = RESULTS / "market1501_deployed.json"
ROUNDS = 200
MULTIPLYING = ("Convolution", "GroupConvolution", "MatMul")
BASELINE = "intel_0288"


@click.command("deployed")
@root_option
@click.option(
    "--student",
    "exports",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Folder of `export`; every verified ONNX file in it is a row. Repeat for several.",
)
@click.option("--out", type=OutputPath(), default=RESULTS / "market1501_deployed.json")
def main(root: Path, exports: tuple[Path, ...], out: Path) -> None:
    """Measure size and latency of exported students and of the networks of others."""
    files = Files(root)
    paths = {name: files.rival(name) for name in RIVALS}
    costs, scores = {name: network_cost(path) for name, path in paths.items()}, rival_scores()
    labels = {name: label for name, (label, _) in RIVALS.items()}
    for number, folder in enumerate(exports):
        manifest = read_manifest(folder)
        for artifact in manifest.artifacts:
            if artifact.status != "verified" or artifact.retrieval is None:
                continue
            name = f"student_{number}_{artifact.precision}"
            paths[name] = folder / artifact.file
            labels[name] = f"{manifest.model.name}, {artifact.precision}"
            costs[name] = (manifest.cost.parameters, manifest.cost.macs)
            retrieval = artifact.retrieval
            scores[name] = (retrieval.exported_mAP, retrieval.exported_rank1)
    compiled = {name: compile_network(path) for name, path in paths.items()}
    seconds = interleaved({name: run_of(network) for name, network in compiled.items()}, ROUNDS)
    results = ResultFile.load_or_create(out, header(labels))
    for name, (parameters, macs) in costs.items():
        if not results.done(name, 0):
            extra = {
                "parameters": parameters,
                "multiply-adds (M)": macs / 1e6,
                "ms": 1e3 * median(seconds[name]),
            }
            mean_ap, rank1 = scores[name]
            results.add(Row(arm=name, mAP=mean_ap, rank1=rank1, extra=extra))


def header(labels: dict[str, str]) -> Experiment:
    """Return the description of the experiment."""
    return Experiment(
        name="Deployed networks on Market-1501",
        question="Is a taught student better than networks of its size, and as fast?",
        command="python -m benchmarks.market1501 deployed --root ROOT --student EXPORT",
        data="market1501",
        budget={"batch": 1, "threads": THREADS, "runtime": f"OpenVINO {openvino.__version__}"},
        arms={name: Arm(label=label) for name, label in labels.items()},
        baseline=BASELINE,
    )


def rival_scores() -> dict[str, tuple[float, float]]:
    """Return mAP and Rank-1 of the networks of others; raises PivlError if not measured."""
    rows = read(RESULTS / "market1501_rivals.json").rows
    return {row.arm: (row.mAP, row.rank1) for row in rows}


def compile_network(path: Path) -> Any:
    """Open an ONNX file or an OpenVINO IR for batches of one, in float32 unless it is INT8."""
    core = shared_core(openvino)
    network = core.read_model(path)
    shape = network.input(0).partial_shape
    if shape[0].is_dynamic:
        network.reshape([1, *shape[1:]])
    precision = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    return core.compile_model(network, "CPU", precision)


def run_of(network: Any) -> Any:
    """Return a function that runs the network on one noise image."""
    noise = np.random.default_rng(0).random(list(network.input(0).shape), np.float32)
    request = network.create_infer_request()
    return lambda: request.infer([noise])


def network_cost(path: Path) -> tuple[int, int]:
    """Return the parameters and the multiply-adds for one image of a network in a file."""
    network = openvino.Core().read_model(path)
    shape = network.input(0).partial_shape
    network.reshape([1, *shape[1:]])
    parameters = macs = 0
    for operation in network.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Constant" and operation.get_element_type().is_real():
            size = math.prod(operation.shape)
            parameters += size if size > 1 else 0
        if kind in MULTIPLYING:
            weight = list(operation.input(1).get_shape())
            per_output = math.prod(weight) // output_channels(kind, weight)
            macs += math.prod(operation.output(0).get_shape()) * per_output
    return parameters, macs


def output_channels(kind: str, weight: list[int]) -> int:
    """Return the number of outputs that a weight of this shape makes per position."""
    if kind == "MatMul":
        return weight[0]
    return weight[0] if kind == "Convolution" else weight[0] * weight[1]
