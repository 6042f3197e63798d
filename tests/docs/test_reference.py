"""The reference leaves nothing out. Its pages are generated, and `make current` compares them with the code."""

import re
from dataclasses import fields
from typing import Any

import pytest

from docs.generate import commands, options
from docs.generate.errors import error_sections
from docs.generate.fields import fields_of
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import DeviceClass
from edgekit.errors import error_names
from tests.helpers.tiny import ROOT

PAGES = ROOT / "docs/reference/commands"


def test_every_command_has_a_page_with_each_of_its_parameters() -> None:
    every = commands.all_commands()
    assert {("deploy",), ("demo",), ("doctor",), ("devices", "add"), ("devices", "clean")} <= every.keys()
    assert {path.name for path in PAGES.glob("*.md")} == {"index.md", options.PAGE, *map(commands.page_of, every)}
    for words, command in every.items():
        page = (PAGES / commands.page_of(words)).read_text()
        before, heading, section = page.partition(f"# edgekit {' '.join(words)}\n")
        assert heading
        assert (before == "") == (len(words) == 1)
        section = section.partition("\n## edgekit ")[0]
        for parameter in command.params:
            if parameter.name in options.UNLISTED:
                continue
            is_option = parameter.param_type_name == "option"
            shown = parameter.opts[0] if is_option else commands.usage_of(parameter)
            assert f"`{shown}`" in section, (words, shown)


def test_every_error_has_a_section_with_its_cause() -> None:
    sections = f"\n{error_sections()}".split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(error_names())
    assert all("**Cause:** " in section for section in sections[1:])


@pytest.mark.parametrize("cls", [Recipe, TargetRecipe, DeviceClass])
def test_every_key_of_a_settings_file_is_described(cls: type[Any]) -> None:
    described = fields_of(cls)
    assert [field.name for field in described] == [field.name for field in fields(cls)]
    assert not [field.name for field in described if not field.description]


def test_the_index_links_every_page() -> None:
    """The pages of the commands are linked by their own index."""
    folder = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#]+)", (folder / "index.md").read_text()))
    of_commands = set(re.findall(r"\]\(([^)#]+)", (folder / "reference/commands/index.md").read_text()))
    linked |= {f"reference/commands/{name}" for name in of_commands}
    pages = {path.relative_to(folder).as_posix() for kind in ("md", "ipynb") for path in folder.rglob(f"*.{kind}")}
    assert pages - linked == {"index.md"}
