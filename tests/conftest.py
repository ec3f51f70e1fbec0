"""Fixtures of all tests: shared folders, multi-process launches, synthetic crops and banks."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn

from pivl_distill.bank import PromptBank
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import LIP20

GOLDEN = Path(__file__).parent / "golden"
SIZE_HW = (128, 64)
PIDS = (3, 7, 8, 12, 20, 21)
BANDS = ("Hat", "Face", "Upper-clothes", "Pants", "Left-shoe")
BAND_EDGES_PX = (0, 16, 32, 72, 120, 128)


SLOW_FIXTURES = {"launch"}
"""Tests that start several processes are slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all parallel workers of a test session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def make_once(session_folder: Path) -> Callable[[str, Callable[[], None]], Path]:
    """`make_once(name, make)` runs `make` in a new folder, once per session of all workers.

    Return that folder; tests copy it or only read it.
    """

    def run(name: str, make: Callable[[], None]) -> Path:
        folder, done = session_folder / name, session_folder / f"{name}.done"
        with FileLock(session_folder / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    make()
                done.touch()
        return folder

    return run


@pytest.fixture(scope="session", autouse=True)
def cache_dir(session_folder: Path) -> Iterator[Path]:
    """A cache folder of the test session, separate from the user's; all workers share it."""
    folder = session_folder / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIVL_DISTILL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_pauses() -> Iterator[None]:
    """Timings in tests are not evaluated: no pauses between runs, and bursts of one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.latency.SLEEP_S", 0.0)
        patch.setattr("export.latency.BURST_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even if the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class ProcessResult:
    """A finished process: its exit code, and its standard output and error together."""

    code: int
    output: str


@pytest.fixture(scope="session")
def launch() -> Callable[..., list[ProcessResult]]:
    """`launch(size, *arguments)` runs Python in `size` processes with torchrun's variables.

    The standard input of a process is closed when the processes of lower rank have finished.
    """

    def run(size: int, *arguments: object) -> list[ProcessResult]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        shared = {
            "PYTHONPATH": path,
            "WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        processes = []
        for rank in range(size):
            variables = shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env=os.environ | {name: str(value) for name, value in variables.items()},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        try:
            outputs = [process.communicate(timeout=120)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [ProcessResult(p.returncode, o) for p, o in zip(processes, outputs, strict=True)]

    return run


@pytest.fixture(scope="session")
def band_store() -> CropStore:
    """Four noisy crops of six people: coloured bands from head to feet, background on both sides.

    Every part of a person has its own colour.
    """
    bands = np.zeros(SIZE_HW, np.uint8)
    for label, top, bottom in zip(BANDS, BAND_EDGES_PX, BAND_EDGES_PX[1:], strict=False):
        bands[top:bottom, 16:48] = LIP20.index(label)
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(PIDS)), 4)
    colours = rng.integers(0, 200, (len(PIDS), len(LIP20), 3))
    clean = colours[rows][:, bands]
    crops = (clean + rng.integers(0, 56, clean.shape)).astype(np.uint8)
    maps = np.repeat(bands[None], len(rows), axis=0)
    return CropStore(crops, maps, np.array(PIDS)[rows], np.arange(len(rows)) % 2)


@pytest.fixture
def prompt_bank() -> PromptBank:
    """Random text features of dimension 16 for the people of `band_store`; one hat is absent."""
    generator = torch.Generator().manual_seed(0)
    present = torch.zeros(len(PIDS), len(LIP20), dtype=torch.bool)
    present[:, [LIP20.background, *map(LIP20.index, BANDS)]] = True
    present[2, LIP20.index("Hat")] = False
    return PromptBank(
        identity=torch.randn(len(PIDS), 16, generator=generator),
        part=torch.randn(len(PIDS), len(LIP20), 16, generator=generator),
        label=torch.randn(len(LIP20), 16, generator=generator),
        present=present,
        pids=PIDS,
        vocabulary=LIP20,
        provenance={"clip": "none", "dataset": "bands", "prompts": {"learned_tokens": 4}},
    )


def named_normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, seeded by the name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def named_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden weight of this name: small values, norms near 1, positive variances."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.long)
    normal = named_normal(name, shape)
    if kind == "running_var":
        return 1 + 0.1 * normal.abs()
    if kind == "running_mean":
        return 0.1 * normal
    if kind == "weight" and len(shape) == 1:
        return 1 + 0.1 * normal
    if kind == "weight" and len(shape) == 4:
        return normal * (2 / normal[0].numel()) ** 0.5
    return 0.02 * normal


@pytest.fixture(scope="session")
def golden_shapes() -> dict[str, dict[str, list[int]]]:
    """Parameter names and shapes of CLIP-ReID's checkpoints `vit` and `rn50`, 10 identities."""
    shapes: dict[str, dict[str, list[int]]] = json.loads(
        (GOLDEN / "clipreid_shapes.json").read_text()
    )
    return shapes


@pytest.fixture(scope="session")
def golden_state() -> Callable[[dict[str, list[int]]], dict[str, Tensor]]:
    """`golden_state(shapes)` rebuilds a checkpoint from names and shapes."""
    return lambda shapes: {name: named_tensor(name, tuple(s)) for name, s in shapes.items()}


@pytest.fixture(scope="session")
def golden_images() -> Tensor:
    """The eight images [8, 3, 256, 128] of the golden features."""
    return named_normal("images", (8, 3, 256, 128))


@pytest.fixture(scope="session")
def golden_rates() -> dict[str, list[float]]:
    """The learning rate of each epoch of CLIP-ReID's stages, `stage1_vit` to `stage2_cnn`."""
    rates: dict[str, list[float]] = json.loads((GOLDEN / "lr_schedules.json").read_text())
    return rates


@pytest.fixture(scope="session")
def golden_figures() -> dict[str, Tensor]:
    """Outputs of CLIP-ReID's official code (eb1898b), as `<model>__<output>`."""
    with np.load(GOLDEN / "clipreid_model.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


SMALL_REID = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SMALL_SIZES = {
    "image_encoder.": {768: 32, 2304: 96, 3072: 128, 512: 24},
    "text_encoder.text_projection": {512: 16},
    "text_encoder.": {512: 16, 1536: 48, 2048: 64},
    "prompt_learner.": {512: 16},
    "classifier_proj.": {512: 24},
    "bottleneck_proj.": {512: 24},
    "classifier.": {768: 32},
    "bottleneck.": {768: 32},
}


@pytest.fixture
def small_reid_state(golden_shapes, golden_state, monkeypatch) -> Callable[..., dict[str, Tensor]]:
    """`small_reid_state(cameras=…)` is a checkpoint like `vit`, with two narrow blocks.

    With cameras its patches overlap as well, as in the published SIE+OLP files.
    """
    import open_clip

    import teachers.clip_reid_checkpoint

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-reid", SMALL_REID)
    monkeypatch.setattr(teachers.clip_reid_checkpoint, "ARCHITECTURES", ("small-reid",))

    def make(cameras: int = 0, identities: int = 10) -> dict[str, Tensor]:
        shapes = {}
        for name, shape in golden_shapes["vit"].items():
            block = name.partition("resblocks.")[2].partition(".")[0]
            if block and int(block) >= (2 if name.startswith("image") else 1):
                continue
            sizes = next(s for prefix, s in SMALL_SIZES.items() if name.startswith(prefix))
            sizes = {10: identities, **({129: 211} if cameras else {}), **sizes}
            shapes[name] = [sizes.get(size, size) for size in shape]
        shapes["text_encoder.text_projection"] = [16, 24]
        if cameras:
            shapes["cv_embed"] = [cameras, 32]
        return golden_state(shapes)

    return make


class SmallNetwork(nn.Module):
    """Two convolutions, with optional camera embeddings; exported within a second."""

    def __init__(self, cameras: int = 0) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()
        )
        self.cameras = nn.Parameter(torch.randn(cameras, 24)) if cameras else None

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        features = self.maps(images).mean((2, 3))
        return features if self.cameras is None else features + self.cameras[cameras]


def pattern_store(seed: int, camid: int) -> CropStore:
    """Two noisy 64×32 crops of each of forty people; every person has a pattern."""
    pids = np.repeat(np.arange(40), 2)
    patterns = np.random.default_rng(0).integers(0, 200, (40, 1, 1, 3))
    noise = np.random.default_rng(seed).integers(0, 56, (len(pids), 64, 32, 3))
    return CropStore((patterns[pids] + noise).astype(np.uint8), None, pids, np.full(80, camid))


@pytest.fixture(scope="session")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`deploy(*precisions, cameras=0, **options)` exports a small network; return the folder."""
    from export.exporter import export_model
    from pivl_distill.models.embedding import EmbeddingModel
    from pivl_distill.retrieval.evaluation import QueryGalleryCrops

    @functools.cache
    def make(*precisions: str, cameras: int = 0, **options: bool) -> Path:
        torch.manual_seed(0)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        network = SmallNetwork(cameras).eval()
        model = EmbeddingModel("small", network, (64, 32), mean, std, cameras)
        folder = tmp_path_factory.mktemp("deploy")
        test = QueryGalleryCrops(pattern_store(1, camid=0), pattern_store(2, camid=1))
        training = pattern_store(3, camid=0)
        export_model(
            model, folder, test=test, calibration=training, precisions=precisions, **options
        )
        return folder

    return make


@pytest.fixture
def quick_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time three runs instead of five seconds."""
    import export.exporter

    real = export.exporter.measure_latency
    monkeypatch.setattr(
        export.exporter,
        "measure_latency",
        lambda sessions, batch: real(sessions, batch, max_repeats=3),
    )


@pytest.fixture(scope="session")
def deployed_once(deploy: Callable[..., Path]) -> Path:
    """An export in all precisions, for tests that only read it."""
    return deploy("fp16", "int8")


@pytest.fixture
def deployed(deployed_once: Path, tmp_path: Path) -> Path:
    """A copy of that export, for tests that modify it."""
    return Path(shutil.copytree(deployed_once, tmp_path / "export"))


def tiny_image(seed: int, suffix: str) -> bytes:
    """An 8×16 image of its own noise; a text for what is no image."""
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
    kinds |= {".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
    if suffix.lower() not in kinds:
        return b"no image"
    noise = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kinds[suffix.lower()])
    return buffer.getvalue()


@pytest.fixture
def plant() -> Callable[[Path, Iterable[str]], Path]:
    """`plant(root, names)` writes a different image at each name below the root."""
    planted = 0

    def write(root: Path, names: Iterable[str]) -> Path:
        nonlocal planted
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny_image(planted, path.suffix))
            planted += 1
        return root

    return write
