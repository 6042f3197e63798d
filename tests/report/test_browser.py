"""report.html in a real browser: no request, no console message, sorting, contrast, texts for pictures, any width."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgekit.report.html import render_html
from tests.helpers.reports import BEST, ROWS, report, report_with

# Run in the page: what a person would see and do. The contrast is WCAG's, of each text with what it lies on.
LOOK = """
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const rgba = (text) => text.match(/[0-9.]+/g).map(Number);
const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = rgba(getComputedStyle(each).backgroundColor);
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
const names = () => [...document.querySelectorAll("tbody tr")].map((row) => row.children[0].textContent);
const heads = [...document.querySelectorAll("thead th")];
const sorted = (title) => {
  const head = heads.find((each) => each.textContent.startsWith(title));
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), names()];
};
const found = {
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  width: innerWidth,
  overflow: document.documentElement.scrollWidth - innerWidth,
  requests: performance.getEntriesByType("resource").map((each) => each.name),
  least: contrasts.sort((one, other) => one[0] - other[0]).slice(0, 3),
  texts: contrasts.length,
  first: names(),
  up: sorted("p50"),
  down: sorted("p50"),
  word: sorted("verdict"),
  pictures: [...document.querySelectorAll("svg")].map((each) => each.closest("[role=img]")?.getAttribute("aria-label")),
  unnamed: [...document.querySelectorAll("img:not([alt]), button:empty")].length,
};
document.body.innerHTML = "";
document.body.append(Object.assign(document.createElement("pre"), {id: "found", textContent: JSON.stringify(found)}));
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser: skips where there is none, except in CI, where that is a failure."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "needs chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def look(chromium: str, page: str, folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """What LOOK finds in a page, at this width in pixels; fails if anything is said on the console.

    The page is in a frame: a window can't be as narrow as a phone.
    """
    file = folder / "report.html"
    framed = html.escape(page.replace("</body>", f"<script>{{{LOOK}}}</script></body>"))
    take = 'onload = () => document.body.append(frames[0].document.querySelector("#found"))'
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
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    found: dict[str, Any] = json.loads(html.unescape(text))
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(chromium: str, tmp_path: Path, width: int, dark: bool) -> None:
    whole = report_with(BEST, verdict="inconclusive", reasons=("cannot confirm a drop of at most 0.2 points",))
    found = look(chromium, render_html(whole), tmp_path, width, dark)
    assert (found["dark"], found["width"]) == (dark, width)
    assert found["overflow"] <= 0, "the page itself must not scroll sideways: wide tables do so in their own frame"
    assert found["requests"] == []
    assert found["texts"] > 100
    assert found["least"][0][0] >= 4.5, found["least"]
    assert found["first"] == [row.name for row in ROWS]
    fastest = ["tflite-int8", "openvino-int8", "tflite-float", "openvino-float", "onnx-float", "onnx-int8"]
    assert found["up"] == ["ascending", fastest]
    assert found["down"] == ["descending", [*reversed(fastest[:-1]), "onnx-int8"]]
    assert found["word"][0] == "ascending"
    assert found["word"][1][0] == "onnx-int8", "error comes first of the verdicts"
    assert found["pictures"]
    assert all(found["pictures"])
    assert found["unnamed"] == 0


def test_a_page_with_a_mistake_would_be_found(chromium: str, tmp_path: Path) -> None:
    """The test itself: a script that fails, and text that can't be read."""
    page = render_html(report())
    with pytest.raises(AssertionError, match="CONSOLE"):
        look(chromium, page.replace("<main>", "<script>missing()</script><main>"), tmp_path, 1280, False)
    pale = page.replace("--quiet: #5b6570", "--quiet: #c0c0c0", 1)
    (tmp_path / "pale").mkdir()
    assert look(chromium, pale, tmp_path / "pale", 1280, False)["least"][0][0] < 4.5


def test_page_is_small_enough_to_send() -> None:
    assert len(render_html(report()).encode()) <= 3_000_000
