"""The page in headless Chromium, at the width of a phone and of a desk, light and dark.

It needs the package playwright and a Chromium: Debian's (`apt install chromium`), or Playwright's
own (`playwright install chromium`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import find_chromium
from pivl_distill.report.page import SHOWN_ROWS

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, an extra of dev")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python, an extra of dev"
)

LOOKS = [(width, scheme) for width in (390, 1400) for scheme in ("light", "dark")]
SERIOUS = ("serious", "critical")
BACKGROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; closed after this module, since its event loop changes signals."""
    with playwright.sync_playwright() as started:
        installed = find_chromium() or started.chromium.executable_path
        if not Path(installed).is_file():
            pytest.skip("needs Chromium: `apt install chromium` or `playwright install chromium`")
        chromium = started.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def look(browser: Any, file: Path, width: int = 1400, scheme: str = "light") -> tuple[Any, list]:
    """Open the page and wait for its charts; return it, and what it reported to the console."""
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    reported: list[str] = []
    view.on("console", lambda message: reported.append(message.text))
    view.on("pageerror", lambda error: reported.append(str(error)))
    view.on("requestfailed", lambda request: reported.append(request.url))
    view.goto(file.as_uri())
    view.wait_for_selector("html[data-drawn]", state="attached")
    return view, reported


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}", scope="module")
def opened(request, browser, report_file: Path) -> Iterator[tuple[Any, list, int, str]]:
    """The page, console messages, width and colour scheme."""
    view, reported = look(browser, report_file, *request.param)
    yield view, reported, *request.param
    view.close()


@pytest.fixture(scope="module")
def view(browser, report_file: Path) -> Iterator[Any]:
    """The page at the width of a desk."""
    view, _ = look(browser, report_file)
    yield view
    view.close()


def test_nothing_goes_wrong_and_nothing_is_cut_off(opened) -> None:
    view, reported, width, scheme = opened
    assert reported == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    background = "getComputedStyle(document.body).backgroundColor"
    assert view.evaluate(background) == BACKGROUND[scheme]


def test_every_picture_is_decoded_and_every_chart_drawn(opened) -> None:
    view = opened[0]
    decode = "Promise.all([...document.images].map(image => image.decode().then(() => 1)))"
    assert len(view.evaluate(decode)) == view.locator("img").count()
    charts = view.locator(".chart")
    assert charts.count() > 0
    assert view.locator(".chart .cartesianlayer .subplot").count() >= charts.count()


def test_axe_finds_no_serious_issue(opened) -> None:
    found = axe.Axe().run(opened[0]).response["violations"]
    assert [(issue["id"], issue["nodes"][0]["html"]) for issue in found] == []


def test_tables_sort_by_value_in_both_directions(view) -> None:
    table = view.locator("table").nth(1)
    button = table.locator("thead button").nth(1)
    read = "rows => rows.map(row => Number(row.cells[1].dataset.value))"
    for order in (1, -1):
        button.focus()
        view.keyboard.press("Enter")
        values = table.locator("tbody tr").evaluate_all(read)
        assert values == sorted(values)[::order]
    assert table.locator("thead th").nth(1).get_attribute("aria-sort") == "descending"


def test_the_pointer_shows_the_values_of_a_chart(view) -> None:
    chart = view.locator(".chart").first
    chart.scroll_into_view_if_needed()
    view.wait_for_timeout(50)
    point = chart.locator(".scatterlayer .point").first.bounding_box()
    view.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    hover = chart.locator(".hoverlayer .hovertext")
    hover.first.wait_for()
    assert hover.count() >= 1


def test_buttons_zoom_and_return_to_the_whole(view) -> None:
    chart = view.locator(".chart").first
    read = "chart => chart._fullLayout.xaxis.range.map(Number)"
    low, high = whole = chart.evaluate(read)
    view.get_by_role("button", name="Zoom in").first.click()
    assert chart.evaluate(read) == pytest.approx(
        [(3 * low + high) / 4, (low + 3 * high) / 4], rel=1e-6
    )
    view.get_by_role("button", name="Whole").first.click()
    assert chart.evaluate(read) == pytest.approx(whole)


def test_rows_of_pictures_are_sorted_by_the_chosen_value(view) -> None:
    rows = view.locator("ol[id^=rows] > li")
    box = view.get_by_label("Order").first
    options = box.locator("option").all_inner_texts()
    for number in range(len(options)):
        box.select_option(str(number))
        read = "(rows, n) => rows.map(row => Number(row.dataset.values.split(' ')[n]))"
        list_of = rows.first.locator("xpath=..").locator("> li")
        values = list_of.evaluate_all(read, number)
        assert values == sorted(values)
        assert len(values) > SHOWN_ROWS


def test_the_first_rows_of_pictures_are_shown_until_all_are_asked_for(view) -> None:
    button = view.locator("button[data-more]").first
    rows = view.locator(f"#{button.get_attribute('data-more')} > li")
    visible = "rows => rows.filter(row => row.offsetParent).length"
    assert rows.evaluate_all(visible) == SHOWN_ROWS
    button.click()
    assert rows.evaluate_all(visible) == rows.count() > SHOWN_ROWS
    assert not button.is_visible()


def test_on_paper_the_page_is_white_and_has_no_buttons(browser, report_file: Path) -> None:
    view, _ = look(browser, report_file, scheme="dark")
    view.emulate_media(media="print", color_scheme="dark")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUND["light"]
    assert not view.locator("nav").is_visible()
    assert len(view.pdf()) > 10_000
    view.close()
