"""The reader in JavaScript: crops, resizing and errors as in Python, in Node."""

from __future__ import annotations

import json

import numpy as np
import PIL
import pytest
from PIL import Image

import javascript
from pivl_distill.data.images import resize_crop
from pivl_distill.errors import PivlError
from pivl_distill.runtime.frame_crops import crop_box

RESIZE = """
const [pixels, sizes, out] = process.argv.slice(1);
const bytes = fs.readFileSync(pixels);
let start = 0;
const results = JSON.parse(sizes).map(([h, w, height, width]) => {
  const data = bytes.subarray(start, (start += h * w * 3));
  return Buffer.from(reader.resize({ data, width: w, height: h }, width, height).data);
});
fs.writeFileSync(out, Buffer.concat(results));
console.log(results.length);
"""
CROP = """
const frame = { data: fs.readFileSync(process.argv[1]), width: 30, height: 20 };
console.log(JSON.stringify(JSON.parse(process.argv[2]).map((box) => {
  try {
    const { data, width, height } = reader.crop(frame, box);
    return { data: Array.from(data), width, height };
  } catch (error) {
    return error.message;
  }
})));
"""
EMBED_FRAME = """
try { reader.crop({ data: new Uint8Array(7), width: 1, height: 2 }, [0, 0, 1, 2]); }
catch (error) { console.log(JSON.stringify(error.message)); }
"""


def test_resizing_is_that_of_pillow(tmp_path):
    """Bit for bit since Pillow 13; before, it resized in one order only, and rounds differently."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1, 5, 4), (64, 32, 64, 32), (64, 200, 64, 32), (200, 32, 64, 32)]
    sizes += [tuple(rng.integers(1, 200, 4).tolist()) for _ in range(40)]
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w, _, _ in sizes]
    (tmp_path / "pixels").write_bytes(b"".join(image.tobytes() for image in images))
    out = tmp_path / "resized"
    assert javascript.run_module(RESIZE, tmp_path / "pixels", json.dumps(sizes), out) == len(sizes)
    expected = np.concatenate(
        [
            resize_crop(Image.fromarray(image), (h, w)).ravel()
            for image, (_, _, h, w) in zip(images, sizes, strict=True)
        ]
    ).astype(int)
    difference = np.abs(np.frombuffer(out.read_bytes(), np.uint8) - expected).max()
    assert difference <= (0 if int(PIL.__version__.split(".")[0]) >= 13 else 1)


def test_boxes_are_cut_as_in_python(tmp_path):
    frame = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    alpha = np.full((20, 30, 1), 9, np.uint8)
    boxes = [[2, 3, 12, 18], [0.5, 1.2, 3.1, 4.9], [-4, -9.5, 50, 60], [40, 0, 50, 5], [5, 5, 5, 9]]
    for pixels in (frame, np.concatenate([frame, alpha], axis=2)):
        (tmp_path / "frame").write_bytes(pixels.tobytes())
        crops = javascript.run_module(CROP, tmp_path / "frame", json.dumps(boxes))
        for number, (crop, box) in enumerate(zip(crops, boxes, strict=True)):
            try:
                expected = crop_box(frame, box, number)
            except PivlError:
                assert crop.endswith("has no pixel in the frame of 30x20.")
                continue
            assert [crop["height"], crop["width"]] == list(expected.shape[:2])
            assert crop["data"] == expected.ravel().tolist()


def test_what_is_no_image_is_refused():
    message = javascript.run_module(EMBED_FRAME)
    assert message == "An image of 1x2 has RGB or RGBA bytes, not 7."


@pytest.mark.parametrize("name", ["cosine", "crop", "decode", "resize", "Extractor"])
def test_the_documented_names_are_exported(name):
    assert javascript.run_module(f'console.log(typeof reader.{name} === "function")') is True
