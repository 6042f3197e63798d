"""report.html in a real browser: requests, console messages, sorting, contrast, descriptions of pictures and width."""

import html
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.report.html import render_html, shown_images
from tests.helpers.reports import BEST, CHANGES, FLOAT_TIMES, INT8_TIMES, ROWS, accuracy, by_class, report, report_with
from tests.helpers.task_reports import TASK_REPORTS

pytestmark = pytest.mark.slow

# This script runs in the page and checks what a person would see and do. The contrast of each text with its background
# is WCAG's.
INSPECT = """
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const rgba = (text) => text.match(/[0-9.]+/g).map(Number);
const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
const ground = (element) => {
  for (let ancestor = element; ancestor; ancestor = ancestor.parentElement) {
    const colour = rgba(getComputedStyle(ancestor).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const contrasts = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("script, style")) continue;
  const style = getComputedStyle(element);
  const [a, b] = [light(rgba(element.closest("svg") ? style.fill : style.color)), light(ground(element))];
  contrasts.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
}
const [int8, floats] = document.querySelectorAll("section[aria-labelledby=results] table");
const names = (table) => [...table.tBodies].map((body) => body.rows[0].children[0].textContent);
const sorted = (table, title) => {
  const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith(title));
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), names(table)];
};
const facts = {
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  width: innerWidth,
  overflow: document.documentElement.scrollWidth - innerWidth,
  requests: performance.getEntriesByType("resource").map((entry) => entry.name),
  least: contrasts.sort((one, other) => one[0] - other[0]).slice(0, 3),
  texts: contrasts.length,
  first: names(int8),
  up: sorted(int8, "p50"),
  down: sorted(int8, "p50"),
  word: sorted(int8, "verdict"),
  floats: sorted(floats, "p50"),
  folded: !floats.checkVisibility(),
  images: [...document.images].map((image) => image.naturalWidth),
  pictures: [...document.querySelectorAll("svg:not([aria-hidden])")].map((svg) => svg.getAttribute("aria-label")),
  unnamed: [...document.querySelectorAll("img:not([alt]), button:empty")].length,
};
document.body.innerHTML = "";
document.body.append(Object.assign(document.createElement("pre"), {id: "facts", textContent: JSON.stringify(facts)}));
"""


def inspect(chromium: str, page: str, folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """The facts that INSPECT reports of a page at this width in pixels. Fails if there is any console message.

    The page is in a frame, because a window can't be as narrow as a phone.
    """
    file = folder / "report.html"
    framed = html.escape(page.replace("</body>", f"<script>{{{INSPECT}}}</script></body>"))
    take = 'onload = () => document.body.append(frames[0].document.querySelector("#facts"))'
    frame = f'<iframe style="border: 0" width="{width}" height="1000" srcdoc="{framed}"></iframe>'
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}<script>{take}</script>", encoding="utf-8")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
        "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", f"--window-size={width + 100},1100",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    (text,) = re.findall(r'<pre id="facts">(.*?)</pre>', done.stdout, re.DOTALL)
    facts: dict[str, Any] = json.loads(html.unescape(text))
    return facts


def small_jpeg() -> bytes:
    """A picture of 48 x 32 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (48, 32), "teal").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(chromium: str, tmp_path: Path, width: int, dark: bool) -> None:
    reasons = ("cannot confirm a drop of at most 0.2 points",)
    changed = accuracy(changes=CHANGES)
    whole = report_with(BEST, verdict="inconclusive", reasons=reasons, accuracy=changed, profile=INT8_TIMES)
    whole = replace(whole, results=(replace(ROWS[0], profile=FLOAT_TIMES), *whole.results[1:]))
    whole = by_class(replace(whole, name="a long name of a run " * 5), [90] * 12, openvino_int8=[89] * 12)
    facts = inspect(chromium, render_html(whole, {"cat/0007.jpg": small_jpeg()}), tmp_path, width, dark)
    assert (facts["dark"], facts["width"]) == (dark, width)
    assert facts["overflow"] <= 0, "the page must not scroll sideways; wide tables scroll in their own frame"
    assert facts["requests"] == []
    assert facts["texts"] > 100
    assert facts["least"][0][0] >= 4.5, facts["least"]
    assert facts["first"] == ["openvino-int8", "onnx-int8", "tflite-int8"]
    assert facts["up"] == ["ascending", ["tflite-int8", "openvino-int8", "onnx-int8"]]
    assert facts["down"] == ["descending", ["openvino-int8", "tflite-int8", "onnx-int8"]]
    assert facts["floats"] == ["ascending", ["tflite-float", "openvino-float", "onnx-float"]]
    assert facts["folded"]
    assert facts["images"] == [48]
    assert facts["word"][0] == "ascending"
    assert facts["word"][1][0] == "onnx-int8", "error is the first of the verdicts"
    assert facts["pictures"]
    assert all(facts["pictures"])
    assert facts["unnamed"] == 0


@pytest.mark.parametrize("task", TASK_REPORTS)
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_another_task_in_a_browser(chromium: str, tmp_path: Path, width: int, task: str) -> None:
    whole = TASK_REPORTS[task]
    thumbnails = {name: small_jpeg() for name in shown_images(whole) if name.endswith(".png")}
    facts = inspect(chromium, render_html(whole, thumbnails), tmp_path, width, dark=width == 390)
    assert facts["overflow"] <= 0
    assert facts["least"][0][0] >= 4.5, facts["least"]
    assert len(facts["images"]) == (1 if task == "multi-label" else 9)
    assert all(facts["pictures"])
    assert facts["unnamed"] == 0


def test_defects_of_a_page_are_detected(chromium: str, tmp_path: Path) -> None:
    """Checks of this test: a script that fails, and text with too little contrast."""
    page = render_html(report())
    with pytest.raises(AssertionError, match="CONSOLE"):
        inspect(chromium, page.replace("<main>", "<script>missing()</script><main>"), tmp_path, 1280, False)
    pale = page.replace("--quiet: #5b6570", "--quiet: #c0c0c0", 1)
    (tmp_path / "pale").mkdir()
    assert inspect(chromium, pale, tmp_path / "pale", 1280, False)["least"][0][0] < 4.5


def test_page_is_small_enough_to_send() -> None:
    assert len(render_html(report()).encode()) <= 3_000_000
