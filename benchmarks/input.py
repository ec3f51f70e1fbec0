"""Augmented training batches against Pillow + torchvision: `python benchmarks/input.py`.

64 JPEG crops of synthetic people and their parsing maps (PNG), 128×64 as in Market-1501, to
normalised images and maps of 256×128: flip, pad and crop, erase, with the usual parameters. One
thread, so figures are per core. The baseline is the loop of the reference codebases: every image is
decoded in every epoch, resized and augmented separately by Pillow and torchvision, together with
its map. Ours takes decoded crops from the memory-mapped store and augments the batch. Both produce
the input of a network; their random choices differ. Also shown: the baseline without decoding, our
augmentation against its limit (one copy of the batch), and the time of a later run to find and
verify all decoded crops on disk. With `--device cuda` our pixels are on the GPU, the baseline
computes on one CPU thread and copies its batch there, and the cache on disk is not measured.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence

import click
import numpy as np
import torch
from harness import Row, interleaved, on_device, on_gpu, overhead, report, speedup
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional as TF

from pivl_distill.data.batches import DeviceArray
from pivl_distill.data.datasets import load_dataset
from pivl_distill.data.records import Record
from pivl_distill.data.sampling import pk_batches
from pivl_distill.data.store import CropStore
from pivl_distill.data.transforms import Augmentation, augment
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.models.embedding import normalize_crops

ROUNDS = 15
SIZE_HW = (256, 128)
IDENTITIES, CROPS = 16, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)
AUGMENTATION = Augmentation()

Decoded = tuple[Image.Image, Image.Image]


def decode(record: Record) -> Decoded:
    """One image and its map at the input size of the network."""
    assert record.parsing is not None
    width_height = SIZE_HW[::-1]
    with Image.open(record.path) as image, Image.open(record.parsing) as part_map:
        return (
            image.convert("RGB").resize(width_height, Image.Resampling.BILINEAR),
            part_map.resize(width_height, Image.Resampling.NEAREST),
        )


def augmented(image: Image.Image, part_map: Image.Image) -> tuple[Tensor, Tensor]:
    """One image [3, H, W], normalised, and its map [H, W], by torchvision."""
    asked = AUGMENTATION
    if random.random() < asked.flip_probability:
        image, part_map = TF.hflip(image), TF.hflip(part_map)
    image = TF.pad(image, asked.pad_px)
    part_map = TF.pad(part_map, asked.pad_px, fill=IGNORE)
    window = transforms.RandomCrop.get_params(image, SIZE_HW)
    image, part_map = TF.crop(image, *window), TF.crop(part_map, *window)
    pixels = TF.normalize(TF.to_tensor(image), MEAN, STD)
    parts = torch.from_numpy(np.array(part_map))
    if random.random() < asked.erase_probability:
        *box, value = transforms.RandomErasing.get_params(
            pixels, asked.erase_area, asked.erase_aspect, [0.0]
        )
        top, left, height, width = box
        pixels = TF.erase(pixels, top, left, height, width, value)
        parts[top : top + height, left : left + width] = IGNORE
    return pixels, parts


def baseline(pairs: Iterator[Decoded]) -> tuple[Tensor, Tensor]:
    """A batch of images and maps, made on the CPU and moved to the device."""
    device = torch.get_default_device()
    with torch.device("cpu"):
        images, maps = zip(*(augmented(*pair) for pair in pairs), strict=True)
        return torch.stack(images).to(device), torch.stack(maps).to(device)


def our_ways(
    crops: DeviceArray, maps: DeviceArray, batch: np.ndarray
) -> tuple[Callable[[], object], Callable[[], object]]:
    """From the store to the network's input; and the same up to uint8, without normalisation."""
    rng = np.random.default_rng(0)

    def uint8() -> tuple[Tensor, Tensor | None]:
        taken = crops.take(batch), maps.take(batch)
        seen = augment(*taken, LIP20.mirror, AUGMENTATION, FILL, rng)
        return seen.crops, seen.maps

    def network_input() -> tuple[Tensor, Tensor | None]:
        images, parts = uint8()
        return normalize_crops(images, MEAN, STD), parts

    return network_input, uint8


def batch_rows(store: CropStore, records: Sequence[Record]) -> Iterator[Row]:
    """A training batch, decoded again and taken from the store."""
    batch = pk_batches(store.pids, IDENTITIES, CROPS, np.random.default_rng(0))[0]
    chosen = [records[crop] for crop in batch]
    decoded = [decode(record) for record in chosen]
    assert store.maps is not None
    device = torch.get_default_device()
    crops, maps = (DeviceArray(values, device) for values in (store.crops, store.maps))
    ours, augmentation = our_ways(crops, maps, batch)
    taken = crops.take(batch), maps.take(batch)
    seconds = interleaved(
        {
            "ours": ours,
            "baseline": lambda: baseline(decode(record) for record in chosen),
            "decoded": lambda: baseline(iter(decoded)),
            "augmentation": augmentation,
            "copy": lambda: [pixels.clone() for pixels in taken],
        },
        ROUNDS,
        warmup=3,
    )
    ms = {name: 1000 * value for name, value in seconds.items()}
    name = f"augmented batch, {len(batch)} × {SIZE_HW[0]}×{SIZE_HW[1]} + maps, per core"
    yield speedup(f"{name}, against Pillow + torchvision", ms["ours"], ms["baseline"], "ms", 5)
    yield speedup(f"{name}, against these without decoding", ms["ours"], ms["decoded"], "ms", None)
    yield overhead(
        f"{name}, uint8 alone, against a copy", ms["augmentation"], ms["copy"], "ms", None
    )


def store_rows(records: Sequence[Record]) -> Iterator[Row]:
    """All crops and maps: verified on disk, or decoded, with all cores."""
    seconds = interleaved(
        {
            "found": lambda: CropStore.load(records, SIZE_HW, LIP20, cache_gib=20),
            "decoded": lambda: CropStore.load(records, SIZE_HW, LIP20),
        },
        rounds=3,
    )
    name = f"{len(records):,} decoded crops + maps, found on disk against decoded"
    yield speedup(name, seconds["found"], seconds["decoded"], "s", None)


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    torch.set_num_threads(1)
    random.seed(0)
    records = load_dataset("synthetic:default").train
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PIVL_DISTILL_CACHE"] = cache
        store = CropStore.load(records, SIZE_HW, LIP20, cache_gib=20)
        on_disk = () if on_gpu() else store_rows(records)
        report("Input", itertools.chain(batch_rows(store, records), on_disk))


if __name__ == "__main__":
    main()
