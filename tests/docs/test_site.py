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

BUILD = [sys.executable, "-m", "mkdocs", "build", "--site-dir"]
ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
WIDE = ("index.html", "reference/report.html", "reference/commands/deploy.html", "concepts/comparison.html")


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


@pytest.mark.parametrize("path", WIDE)
def test_a_page_fits_on_a_phone(chromium: str, site: Path, path: str, tmp_path: Path) -> None:
    """The page is in a frame, because a window can't be as narrow as a phone."""
    copy = shutil.copytree(site, tmp_path / "site")
    measure = "const { scrollWidth, clientWidth } = document.documentElement"
    tell = f"onload = () => {{ {measure}; parent.postMessage(`${{innerWidth}} ${{scrollWidth - clientWidth}}`, '*') }}"
    page = (copy / path).read_text()
    (copy / path).write_text(page.replace("</body>", f"<script>{tell}</script></body>"))
    note = "<title>none</title><script>onmessage = (event) => { document.title = event.data }</script>"
    frame = f'<iframe style="border: 0" width="390" height="1000" src="{path}"></iframe>'
    (copy / "frame.html").write_text(f"<!doctype html><meta charset=utf-8>{note}<body>{frame}")
    dumped = browse(chromium, (copy / "frame.html").as_uri(), tmp_path)
    assert re.findall("<title>(.*?)</title>", dumped) == ["390 0"]


def test_the_build_refuses_dead_links_and_pages_outside_of_the_navigation(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=ignored)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write("\n[page](no-such-page.md) [anchor](reference/errors.md#no-such-error)\n")
    (tmp_path / "docs/stray.md").write_text("# Stray\n")
    done = subprocess.run(
        [*BUILD, str(tmp_path / "site")], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    for defect in ("no-such-page.md", "no-such-error", "stray.md"):
        assert re.search(rf"WARNING.*{defect}|^.*- {defect}", done.stderr, re.MULTILINE), done.stderr
