"""The documentation site: it needs nothing from elsewhere, works in a folder, and its build is strict."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.sharing import made_once
from tests.helpers.tiny import ROOT

pytestmark = pytest.mark.slow
BUILD = [sys.executable, "-m", "mkdocs", "build", "--site-dir"]
ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
WIDE = ("index.html", "reference/report.html", "reference/commands/options.html", "concepts/comparison.html")


@pytest.fixture(scope="module")
def site(shared_folder: Path) -> Path:
    """The folder that `make docs` builds."""

    def make(folder: Path) -> None:
        subprocess.run([*BUILD, str(folder)], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)

    return made_once(shared_folder, "site", make)


def browse(chromium: str, page: str, folder: Path) -> str:
    """The elements of a page after its scripts ran, in a browser that reaches no network."""
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
        "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", page,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        elements = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text())
        assert not [each for each in elements if re.search(r"""(src|href)=["']?(https?:)?//""", each)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_the_search_works_in_a_folder(chromium: str, site: Path, tmp_path: Path) -> None:
    page = f"{(site / 'reference/errors.html').as_uri()}?q=GoldenError"
    results = re.findall(r'<a href="([^"]+)" class="md-search-result__link"', browse(chromium, page, tmp_path))
    assert any("reference/errors.html" in link for link in results)


def test_wide_pages_fit_on_a_phone(chromium: str, site: Path, tmp_path: Path) -> None:
    """Each page is in a frame, because a window can't be as narrow as a phone."""
    copy = shutil.copytree(site, tmp_path / "site")
    measure = "const { scrollWidth, clientWidth } = document.documentElement"
    for path in WIDE:
        widths = f"`{path} ${{innerWidth}} ${{scrollWidth - clientWidth}}`"
        tell = f"onload = () => {{ {measure}; parent.postMessage({widths}, '*') }}"
        page = (copy / path).read_text()
        (copy / path).write_text(page.replace("</body>", f"<script>{tell}</script></body>"))
    note = "<title></title><script>onmessage = (event) => { document.title += `${event.data};` }</script>"
    frames = "".join(f'<iframe style="border: 0" width="390" height="1000" src="{path}"></iframe>' for path in WIDE)
    (copy / "frames.html").write_text(f"<!doctype html><meta charset=utf-8>{note}<body>{frames}")
    (title,) = re.findall("<title>(.*?)</title>", browse(chromium, (copy / "frames.html").as_uri(), tmp_path))
    assert set(title.split(";")) == {"", *(f"{path} 390 0" for path in WIDE)}


def test_the_build_refuses_dead_links_and_pages_outside_of_the_navigation(tmp_path: Path) -> None:
    """A site of three pages with the settings of the whole one."""
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md, other.md]\n")
    (tmp_path / "docs").mkdir()
    for name, text in (
        ("index.md", "[page](no-such-page.md) [anchor](other.md#no-such-anchor)"),
        ("other.md", "# Other"),
        ("stray.md", "# Stray"),
    ):
        (tmp_path / "docs" / name).write_text(f"{text}\n")
    done = subprocess.run(
        [*BUILD, str(tmp_path / "site")], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    for defect in ("no-such-page.md", "no-such-anchor", "stray.md"):
        assert re.search(rf"WARNING.*{defect}|^.*- {defect}", done.stderr, re.MULTILINE), done.stderr
