"""The code blocks of the documentation: which of them run, and what a failure shows."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import SYBIL, run_bash
from tests.helpers.tiny import ROOT

PAGES = [path for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))) if SYBIL.should_parse(path)]
LANGUAGES = {"bash", "python", "text", "toml", "json", "yaml", "shell", "py", "cpp", "ini", "dockerfile", "js"}
"""Blocks in the first two run. The last six are generated: usage, signatures and examples, which have other tests."""
ON_A_BOARD = ROOT / "docs/how-to/raspberry-pi.md"
"""Its blocks in `sh` run on emulated boards: tests/devices/test_emulated.py."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_page_is_looked_at() -> None:
    assert set(ROOT.glob("docs/**/*.md")) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language(page: Path) -> None:
    fences = re.findall(r"^[ >]*```(.*)$", page.read_text(), re.MULTILINE)
    languages = {info.strip() for info in fences[::2]}
    assert languages <= LANGUAGES | ({"sh"} if page == ON_A_BOARD else set())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_is_skipped_with_a_reason_only(page: Path) -> None:
    skips = re.findall(r"<!--+ *skip: *(next|start)(.*?)-->", page.read_text())
    assert all(re.fullmatch(r' (".{10,}"|if\((?:not )?recording, reason=".{10,}"\)) *', reason) for _, reason in skips)


def test_a_block_of_bash_sees_the_command_and_its_own_folder(tmp_path: Path) -> None:
    run_bash("cd ~ && edgekit --version > version.txt", tmp_path)
    assert (tmp_path / "version.txt").read_text().startswith("edgekit ")


@pytest.mark.parametrize("script", ["echo before; false; true", "false | cat", "echo $UNSET"])
def test_a_block_of_bash_fails_with_its_first_command_that_fails(script: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        run_bash(script, tmp_path)


def test_a_failure_shows_what_the_block_printed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="to stdout\nto stderr"):
        run_bash("echo to stdout; echo to stderr >&2; exit 3", tmp_path)
