"""The page of examples/browser in headless Chromium: two crops, or boxes in a frame."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chromium
import javascript
from export.consumers.web import Web
from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.people import person
from pivl_distill.data.synthetic.render import render
from pivl_distill.runtime import Extractor

BOXES = ((30, 20, 90, 140), (150, 40, 210, 160))
READY = "document.getElementById('network').textContent.includes('onnx/')"


@pytest.fixture(scope="module")
def site(exported_once, tmp_path_factory) -> Path:
    """The page beside what its README says to put there, and three images."""
    from export.consumers.base import ExportFolder
    from export.manifest_schema import read_manifest

    javascript.require_onnxruntime_web()
    folder = tmp_path_factory.mktemp("site")
    for name in ("index.html", "page.mjs"):
        shutil.copy(javascript.EXAMPLE / name, folder)
    (folder / "node_modules").symlink_to(javascript.NODE_MODULES)
    (folder / "export").mkdir()
    Web().write(ExportFolder(exported_once, read_manifest(exported_once)), folder / "export")
    manifest = json.loads((folder / "export" / "manifest.json").read_text())
    for entry in manifest["files"]:
        entry["thresholds"] = [{"far": 0.01, "cosine": -1.0}, {"far": 0.001, "cosine": 1.1}]
    (folder / "export" / "manifest.json").write_text(json.dumps(manifest))
    frame = np.full((200, 240, 3), 90, np.uint8)
    for side, (left, top, right, bottom), view in zip("ab", BOXES, (0, 1), strict=True):
        crop = render(person(7, view, 2), camera(7, view), 7, (120, 60)).image
        Image.fromarray(crop).save(folder / f"{side}.png")
        frame[top:bottom, left:right] = crop
    Image.fromarray(frame).save(folder / "frame.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def page(site, tmp_path):
    browser = chromium.find_chromium()
    if browser is None:
        pytest.skip("no Chromium is installed (Debian's package: chromium)")
    with chromium.served(site) as address, chromium.open_page(browser, tmp_path / "p") as page:
        page.call("Page.navigate", url=address)
        page.wait_for(READY)
        yield page
        assert page.text("problem") == ""
        elsewhere = [url for url in page.requests if not url.startswith((address, "data:"))]
        assert elsewhere == []


def similarity(site: Path, exported: Path, precision: str) -> float:
    extractor = Extractor(exported, precision=precision, device="cpu")
    a, b = extractor.embed_files([site / "a.png", site / "b.png"])
    return float(a @ b)


def shown(page) -> float:
    page.wait_for("document.getElementById('similarity').textContent !== '–'")
    return float(page.text("similarity"))


def test_two_crops_in_float32_and_int8(page, site, exported_once):
    page.choose_file("file-a", site / "a.png")
    page.choose_file("file-b", site / "b.png")
    expected = similarity(site, exported_once, "fp32")
    assert shown(page) == pytest.approx(expected, abs=1e-4)
    page.wait_for("document.getElementById('threshold').textContent !== ''")
    assert (page.text("verdict"), page.text("threshold")) == ("one person", "(threshold -1.0000)")
    page.select("far", "0.001")
    page.wait_for("document.getElementById('verdict').textContent === 'two people'")
    page.evaluate("document.getElementById('similarity').textContent = '–'")
    page.select("precision", "int8")
    assert shown(page) == pytest.approx(similarity(site, exported_once, "int8"), abs=0.05)
    assert "onnx/model_quantized.onnx" in page.text("network")
    assert page.evaluate("document.getElementById('far').value") == "0.001"


def test_boxes_drawn_in_a_frame(page, site, exported_once):
    page.choose_file("file-frame", site / "frame.png")
    page.wait_for("document.getElementById('frame').width === 240")
    for box in BOXES:
        page.drag("frame", box)
    assert shown(page) == pytest.approx(similarity(site, exported_once, "fp32"), abs=2e-2)
    sizes = [page.evaluate(f"document.getElementById('crop-{s}').height") for s in "ab"]
    assert sizes == pytest.approx([120, 120], abs=1)


def test_a_file_that_is_no_image_is_reported(page, site):
    page.choose_file("file-a", site / "text.png")
    problem = page.wait_for("document.getElementById('problem').textContent")
    assert problem == "text.png is not an image that this browser can decode."
    page.choose_file("file-a", site / "a.png")
    page.wait_for("document.getElementById('crop-a').height === 120")


def test_a_page_without_an_export_says_so(page):
    page.call("Page.navigate", url=page.evaluate("location.href") + "?export=missing/")
    problem = page.wait_for("document.getElementById('problem').textContent")
    assert problem.endswith("/missing/; copy the folder web of an export there.")
    page.evaluate("document.getElementById('problem').textContent = ''")
