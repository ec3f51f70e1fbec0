"""A network that this project did not train, as an embedding model: RGB crops in, vectors out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pivl_distill.config import Preprocessing
from pivl_distill.errors import PivlError, one_line
from pivl_distill.foreign.graphs import NETWORK_SUFFIXES, OPENVINO_SUFFIX, Graph, Port, open_graph
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval.loaded_network import LoadedNetwork
from pivl_distill.storage.filenames import MANIFEST_FILE
from pivl_distill.storage.files import sha256
from pivl_distill.storage.limits import MAX_INPUT_PIXELS, MAX_INPUT_VALUES
from pivl_distill.vectors.space import VectorSpace, space_id

if TYPE_CHECKING:
    from pivl_distill.runtime.onnx_session import ExecutionDevice

BATCH_SIZE = 32
"""Crops per run of a graph whose batch is not fixed."""


def is_foreign_network(path: Path) -> bool:
    """Whether `path` names an ONNX file or OpenVINO IR without the manifest of an export."""
    return path.suffix in NETWORK_SUFFIXES and not (path.parent / MANIFEST_FILE).is_file()


@dataclass(frozen=True)
class FileForward:
    """Normalised RGB images float32 [B, 3, H, W] → embeddings float32 [B, F]."""

    path: Path
    graph: Graph
    output: int
    bgr: bool
    channels_last: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Run the graph in batches of its size; raise PivlError if it does not return vectors."""
        return torch.from_numpy(self.run(self.feed(images)))

    def feed(self, images: Tensor) -> np.ndarray:
        """Return what the graph takes for normalised RGB images [B, 3, H, W]."""
        (port,) = self.graph.inputs
        values = images.flip(1) if self.bgr else images
        values = values.permute(0, 2, 3, 1) if self.channels_last else values
        if port.dtype == "uint8":
            values = values.round()
        return np.ascontiguousarray(values.cpu().numpy().astype(port.dtype, copy=False))

    def run(self, fed: np.ndarray) -> np.ndarray:
        """Return embeddings float32 [B, F] of what `feed` returned for B images."""
        (port,) = self.graph.inputs
        fixed_batch = None if port.shape is None else port.shape[0]
        size = fixed_batch or BATCH_SIZE
        batches = [
            self._run(fed[start : start + size], fixed_batch) for start in range(0, len(fed), size)
        ]
        return np.concatenate(batches)

    def _run(self, images: np.ndarray, fixed_batch: int | None) -> np.ndarray:
        """Return embeddings float32 [B, F] of one batch, padded with its last crop if too small."""
        count = len(images)
        if fixed_batch is not None and count < fixed_batch:
            images = images[np.minimum(np.arange(fixed_batch), count - 1)]
        try:
            result = self.graph.run(images, self.output)
        except Exception as error:  # the exceptions of ONNX Runtime and OpenVINO share no base
            raise PivlError(
                f"{self.path} cannot run on an input of shape {list(images.shape)}:"
                f" {one_line(error)}"
            ) from error
        features = [size for size in result.shape[1:] if size != 1]  # also [B, F, 1, 1]
        if result.shape[:1] != (len(images),) or len(features) != 1:
            raise PivlError(
                f"{self.path} is not an embedding network: for {len(images)} crops,"
                f" {self.graph.outputs[self.output]} has the shape {list(result.shape)} instead of"
                " one vector per crop, [crops, features]."
            )
        if not np.isfinite(result).all():
            raise PivlError(
                f"{self.path} returned values that are not finite; check --mean, --std and --range."
            )
        return result[:count].reshape(count, -1).astype(np.float32, copy=False)


def load_foreign(
    path: Path, preprocessing: Preprocessing, device: ExecutionDevice = "cpu"
) -> LoadedNetwork:
    """Open an ONNX file or an OpenVINO IR as a ReID network, and run it once on noise.

    Raises PivlError if the file does not fit `preprocessing` or returns no vectors.
    """
    graph = open_graph(path, device)
    port = _check_input(path, graph, preprocessing)
    channels_last = _channels_last(path, port, preprocessing)
    size_hw = _size_hw(path, port, preprocessing, channels_last)
    mean, std = (
        _in_rgb(values, preprocessing) for values in (preprocessing.mean, preprocessing.std)
    )
    model = EmbeddingModel(path.name, nn.Identity(), size_hw, mean, std)
    output = _choose_output(path, graph, preprocessing.output)
    forward = FileForward(path, graph, output, preprocessing.colour == "bgr", channels_last)
    network = LoadedNetwork(path, model, forward)
    declared = preprocessing.model_copy(
        update={"size_hw": size_hw, "layout": "nhwc" if channels_last else "nchw"}
    )
    return replace(network, space=graph.space or _space(path, declared, network.dim))


def _space(path: Path, declared: Preprocessing, dim: int) -> VectorSpace:
    """Return the space of a file that names none: a hash of the file and what is declared."""
    weights = path.with_suffix(".bin")  # an IR without weights has none
    files = [path, weights] if path.suffix == OPENVINO_SUFFIX and weights.is_file() else [path]
    return VectorSpace(space_id(map(sha256, files), declared.model_dump(mode="json"), dim))


def _in_rgb(
    values: tuple[float, float, float], preprocessing: Preprocessing
) -> tuple[float, float, float]:
    """Convert a mean or deviation to RGB order and pixels in 0..1, as embedding models have it."""
    first, second, third = (value / preprocessing.range for value in values)
    return (third, second, first) if preprocessing.colour == "bgr" else (first, second, third)


def _check_input(path: Path, graph: Graph, preprocessing: Preprocessing) -> Port:
    """Return the only input; raise PivlError if it cannot be crops."""
    if len(graph.inputs) != 1:
        listed = ", ".join(map(str, graph.inputs)) or "none"
        raise PivlError(
            f"{path} has {len(graph.inputs)} inputs ({listed}); a ReID network has one, the crops."
        )
    (port,) = graph.inputs
    if port.dtype not in ("float32", "float16", "uint8") or len(port.shape or [0] * 4) != 4:
        raise PivlError(
            f"{path} takes {port}; a ReID network takes crops [N, 3, H, W] or [N, H, W, 3] in"
            " float32, float16 or uint8."
        )
    plain = (
        preprocessing.range == 255 and not any(preprocessing.mean) and {*preprocessing.std} == {1}
    )
    if port.dtype == "uint8" and not plain:
        raise PivlError(
            f"{path} takes {port}, whole pixels in 0..255: declare range 255 without mean and std."
        )
    return port


def _channels_last(path: Path, port: Port, preprocessing: Preprocessing) -> bool:
    """Whether the input is [N, H, W, 3]; raises PivlError if the file leaves it open or differs."""
    first, last = ("?", "?") if port.shape is None else (port.shape[1], port.shape[3])
    in_file = {(True, False): "nchw", (False, True): "nhwc"}.get((first == 3, last == 3))
    layout = in_file if preprocessing.layout == "auto" else preprocessing.layout
    if layout is None:
        raise PivlError(
            f"{path} takes {port}, which does not say where the channels are: declare"
            " 'layout: nchw' or 'layout: nhwc' in a YAML file for --preset."
        )
    if (first if layout == "nchw" else last) not in (3, None, "?"):
        raise PivlError(f"{path} takes {port}, which is not {layout} with three channels.")
    return layout == "nhwc"


def _size_hw(
    path: Path, port: Port, preprocessing: Preprocessing, channels_last: bool
) -> tuple[int, int]:
    """Return height and width; raise PivlError if nobody declares them, or file and user differ."""
    in_file: tuple[int | None, ...] = (None, None)
    if port.shape is not None:
        in_file = port.shape[1:3] if channels_last else port.shape[2:]
    height, width = preprocessing.size_hw or in_file
    if height is None or width is None:
        raise PivlError(
            f"{path} takes {port}, crops of any size: declare it, as in --size 256x128."
        )
    if any(fixed not in (None, size) for fixed, size in zip(in_file, (height, width), strict=True)):
        raise PivlError(
            f"{path} takes {port}, but the size declared is {height}x{width}; correct it with"
            " --size HEIGHTxWIDTH."
        )
    batch = BATCH_SIZE if port.shape is None else port.shape[0] or BATCH_SIZE
    if height * width > MAX_INPUT_PIXELS or 3 * batch * height * width > MAX_INPUT_VALUES:
        raise PivlError(
            f"{path} takes {port}: {batch:,} crops of {height:,}x{width:,} pixels at a time do not"
            f" fit; a crop has at most {MAX_INPUT_PIXELS:,} pixels and a batch"
            f" {MAX_INPUT_VALUES:,} values."
        )
    return height, width


def _choose_output(path: Path, graph: Graph, name: str | None) -> int:
    """Return the number of the output called `name`, or of the only one."""
    names = [port.name for port in graph.outputs]
    listed = ", ".join(map(str, graph.outputs))
    if name is None and len(names) > 1:
        raise PivlError(f"{path} has several outputs; choose one with --output NAME: {listed}.")
    if name is not None and name not in names:
        raise PivlError(f"{path} has no output '{name}'; it has {listed}.")
    return 0 if name is None else names.index(name)
