"""The hook of MkDocs: adds a page for each command to the site and its navigation, and fills in generated parts."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.generate import commands
from docs.generate.parts import fill


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    entries = _list_with(config.nav, commands.OVERVIEW)
    assert entries is not None, f"mkdocs.yml does not list {commands.OVERVIEW}"
    entries.extend(commands.navigation())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, content in commands.pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return fill(markdown)


def _list_with(entries: Any, path: str) -> list[Any] | None:
    """The list of the navigation that has this path as an entry."""
    if not isinstance(entries, list):
        return None
    if path in entries:
        return entries
    below = (value for entry in entries if isinstance(entry, dict) for value in entry.values())
    return next((found for value in below if (found := _list_with(value, path)) is not None), None)
