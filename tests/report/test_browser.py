"""Pages as a browser shows them: on a desk and on a phone, light and dark."""

import json
import shutil
from pathlib import Path

import pytest

from hwprune.latency import LatencyTable
from hwprune.report import sweep_page, table_page
from hwprune.report.bundle_page import bundle_page
from hwprune.report.forms import formed
from hwprune.report.page import Beside, html_report

from .browser import Browser
from .made_up import DOCUMENT, HISTORY, HOSTILE, MANIFEST, SPARSE, UPDATES, with_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TABLES = Path(__file__).parents[2] / "latency_tables"
LONG = "stage." * 60
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at pages with")

# Every piece of text with the colour behind it: the least contrast (WCAG 2.2, 1.4.3), and what has it.
CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const part = colour[i] / 255;
    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0.05);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] == 255) return colour;
    }
    return [255, 255, 255];
  };
  let worst = [21, "nothing", 0];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || element.closest("title")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [rgba(element.closest("svg") ? style.fill : style.color), behind(element)].map(light);
    const ratio = Math.max(a, b) / Math.min(a, b);
    worst = [Math.min(ratio, worst[0]), ratio < worst[0] ? walk.currentNode.data : worst[1], worst[2] + 1];
  }
  return worst;
})()"""
# What reaches beyond the window without a box of its own that scrolls.
BEYOND = """[...document.querySelectorAll("body *")].filter(one =>
  one.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !one.parentElement.closest(".wide, pre")).map(one => one.outerHTML.slice(0, 200))"""


def hostile_run():
    document = json.loads(json.dumps(with_result(sparse=SPARSE, budget_requested=HOSTILE, accuracy_of=HOSTILE)))
    document["config"]["model"] = f"{HOSTILE}/{LONG}"
    document["groups"][1].update(name=LONG, frozen=HOSTILE + LONG)
    document["layers"][0].update(name=HOSTILE + LONG)
    document["device"] = {LONG: LONG, HOSTILE: ["a", HOSTILE]}
    return html_report({**document, "mask_updates": UPDATES}, Beside(history=HISTORY, others=[DOCUMENT]))


def sweep():
    documents = []
    for value, score in ((0.8, 0.97), (0.5, 0.95), (0.3, 0.8)):
        document = with_result(budget=4 * value, budget_requested=f"{value}x", measured=3.9 * value, accuracy=score)
        documents.append(document)
    return sweep_page(documents, [Path(f"{value}x") for value in (0.8, 0.5, 0.3)])


PAGES = {
    "run": lambda: html_report(DOCUMENT, Beside(history=HISTORY)),
    "hostile run": hostile_run,
    "sweep": sweep,
    "bundle": lambda: formed(bundle_page(MANIFEST, Path("a bundle")), "html"),
    "table": lambda: table_page(LatencyTable.load(next(TABLES.glob("*/onnxruntime-fp32.json"))), title="A table"),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_read_on_any_screen(name, browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGES[name](), encoding="utf-8")
    papers = set()
    for width in (1280, 390):
        for dark in (False, True):
            browser.show(path, width=width, dark=dark)
            assert browser.complaints == []
            assert browser.requests == [path.as_uri()]
            browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value("innerWidth") == width
            assert browser.value(BEYOND) == []
            ratio, text, seen = browser.value(CONTRAST)
            assert ratio >= 4.5, text
            assert seen > 20
            papers.add((dark, browser.value("getComputedStyle(document.body).backgroundColor")))
            browser.screenshot(tmp_path / f"{width}-{dark}.png")
    assert len(papers) == 2


def test_nothing_that_a_user_names_runs(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(hostile_run(), encoding="utf-8")
    browser.show(path, width=1280, dark=False)
    assert browser.value("document.querySelectorAll('script, img, iframe, object').length") == 0
    assert browser.value("document.querySelector('h1').textContent") == f"{HOSTILE}/{LONG}"
    assert HOSTILE in browser.value("[...document.querySelectorAll('svg text')].map(one => one.textContent)")


def test_what_the_other_tests_rely_on_is_noticed(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        """<!DOCTYPE html><meta name="viewport" content="width=device-width, initial-scale=1"><body>
        <p style="color: #999; background: #fff">pale</p><div style="width: 2000px">wide</div>
        <link rel="stylesheet" href="file:///nowhere/style.css"><script>console.warn("oh")</script>"""
    )
    browser.show(path, width=390, dark=False)
    assert browser.value("document.documentElement.scrollWidth") == 2008
    assert len(browser.value(BEYOND)) == 1
    assert browser.value(CONTRAST)[0] == pytest.approx(2.85, abs=0.01)
    assert "file:///nowhere/style.css" in browser.requests
    assert any("oh" in complaint for complaint in browser.complaints)


def test_figures_are_drawn(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(html_report(DOCUMENT, Beside(history=HISTORY)), encoding="utf-8")
    browser.show(path, width=390, dark=False)
    assert browser.value("[...document.querySelectorAll('figure svg')].map(one => one.clientHeight > 50)") == 5 * [True]
    assert browser.value("[...document.querySelectorAll('svg title')].every(one => one.parentElement.getBBox().width)")
