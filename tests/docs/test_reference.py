"""The reference: nothing that the code has is missing from it."""

import inspect
from dataclasses import fields, replace
from typing import Any

import pytest
from typer.core import TyperCommand

import edgekit
from docs.generate import commands, compatibility, options, report, sdk, settings
from docs.generate.errors import error_sections
from docs.generate.fields import fields_of
from docs.generate.markdown import anchor, plain, table
from edgekit.cli import frame
from edgekit.compat.typer import Option
from edgekit.config.compatibility import known_bad
from edgekit.config.device_classes import DeviceClass
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.errors import error_names
from edgekit.report import report_schema
from edgekit.report.figure import all_figures
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


def test_every_option_is_described_in_one_place_with_its_anchor() -> None:
    pages = "".join(path.read_text() for path in PAGES.glob("*.md"))
    every = {option.key: option for each in commands.all_commands().values() for option in options.options_of(each)}
    for option in every.values():
        described = table([*option.row[:2], ""], []).splitlines()[0].removesuffix("|  |")
        assert pages.count(described) == 1, described


def test_a_group_has_its_commands() -> None:
    section = commands.command("devices").partition("\n## edgekit devices add\n")[2].partition("\n## ")[0]
    assert "\nedgekit devices add NAME URL " in section
    assert "\n### Options\n" in section
    assert "`--ssh-config`" in section


def test_the_overview_has_the_panels_of_the_help() -> None:
    sections = commands.command_sections().split("## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == [frame.COMMANDS, frame.MORE]
    assert "(deploy.md)" in sections[0]
    assert "(devices.md#edgekit-devices-add)" in sections[-1]


def test_examples_of_the_help_can_be_copied() -> None:
    assert "\nedgekit deploy " in commands.command("deploy").partition("## Examples\n\n```shell")[2]


@pytest.fixture
def two_commands() -> tuple[Any, ...]:
    """Two commands that share `--size` with different defaults, and have one more option each."""
    names = iter(("A name.", "Another name."))

    def params(default: str) -> list[Option]:
        return [
            Option("size", ("--size",), "N", "Model", "Size of the input.", default_in_words=default, min=1),
            Option("name", ("--name",), "TEXT", "Output", next(names)),
            Option("check", ("--check",), None, "Gates", "Check."),
        ]

    return tuple(
        TyperCommand(name, params=[*params(default)]) for name, default in (("first", "3"), ("second", "the model's"))
    )


def test_options_of_several_commands_are_shared_in_the_order_of_the_panels(two_commands: tuple[Any, ...]) -> None:
    shared = options.shared_options(two_commands)
    assert [option.name for option in shared.values()] == ["--size", "--check"]
    model, gates = options.shared_tables(shared).split("## ")[1:]
    assert model.startswith("Model\n")
    assert '| <a id="--size"></a>`--size` `N` | Size of the input. At least 1. | 3 |' in model
    assert gates.startswith("Gates\n")
    assert "`--check` | Check. |  |" in gates


def test_a_list_of_shared_options_says_which_default_is_another_one(two_commands: tuple[Any, ...]) -> None:
    shared = options.shared_options(two_commands)
    first, second = (
        options.shared_list([each for each in options.options_of(command) if each.key in shared], shared)
        for command in two_commands
    )
    gates = "- [Gates](options.md#gates): [`--check`](options.md#--check)"
    assert first == f"- [Model](options.md#model): [`--size`](options.md#--size)\n{gates}"
    assert second == f"- [Model](options.md#model): [`--size`](options.md#--size) (default: the model's)\n{gates}"


@pytest.mark.parametrize(
    ("default", "shown"), [("8", " (default: 8)"), ("required", " (required)"), ("", " (optional)"), ("all", "")]
)
def test_another_default_is_in_parentheses(default: str, shown: str) -> None:
    usual = options.Option("Gates", "--few", "`--few`", "A few.", "all")
    listed = options.shared_list([replace(usual, default=default)], {usual.key: usual})
    assert listed == f"- [Gates](options.md#gates): [`--few`](options.md#--few){shown}"


def test_the_usual_default_is_that_of_deploy() -> None:
    assert "| runs/MODEL |" in commands.common_options()
    assert "`--output`](options.md#--output) (default: runs/demo)" in commands.command("demo")
    assert "`--output`](options.md#--output)," in commands.command("deploy")


def test_an_option_shows_its_default_once() -> None:
    rows = {option.name: option for option in options.options_of(commands.all_commands()["demo",])}
    assert rows["--warmup"].default == "20"
    assert rows["--target"].default == "all"
    assert "default" not in rows["--target"].meaning


def test_every_error_has_an_anchor_with_cause_and_cure() -> None:
    sections = f"\n{error_sections()}".split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(error_names())
    abstract = {"EdgekitError", "InputError", "StageError"}
    for section in sections:
        name = section.partition("\n")[0]
        assert ("**Cause:** " in section and "**Cure:** " in section) or name in abstract, name
    assert anchor("BundleError") == "bundleerror"


def test_the_page_of_the_report_has_every_figure_that_tables_show() -> None:
    lines = report.figures_table().splitlines()[2:]
    shown = [figure for figure in all_figures() if figure.rank is not None]
    assert len(lines) == len(shown) >= 15
    for figure in shown:
        (line,) = (line for line in lines if line.startswith(f"| `{figure.path}` | {figure.title} | {figure.unit} |"))
        assert (f"`{figure.interval}`" in line) == bool(figure.interval)


def test_the_page_of_the_report_has_every_field_of_what_people_read() -> None:
    sections = report.report_sections().split("## ")[1:]
    definitions = report_schema()["$defs"]
    assert len(sections) == len(report.READ)
    described = {section.splitlines()[2]: section for section in sections}
    figures = {figure.path.partition(".")[0] for figure in all_figures()}
    for name in report.READ:
        section = described[plain(definitions[name]["description"])]
        keys = definitions[name]["properties"].keys() - (figures if name == "Row" else set())
        assert section.count("\n| ") == 2 + len(keys)
        assert all(f"| `{key}` " in section or f"| [`{key}`](#" in section for key in keys)


def test_a_field_of_the_report_names_its_values_and_its_object() -> None:
    lines = report.report_sections().splitlines()
    assert any(line.startswith("| `profile` (`TimeProfile`) |") for line in lines)
    assert "| [`gates`](#resultsgates) | " in "\n".join(lines)
    (verdict, gate) = (line for line in lines if line.startswith("| `verdict` |"))
    assert verdict.endswith(' One of `"error"`, `"fail"`, `"inconclusive"`, `"pass"`. |')
    assert '`"skipped"`' in gate
    (precision,) = (line for line in lines if line.startswith("| `precision` |"))
    assert "One of" not in precision, "the description has both"


@pytest.mark.parametrize("cls", [Recipe, TargetRecipe, DeviceClass])
def test_every_key_of_a_settings_file_is_described(cls: type[Any]) -> None:
    described = fields_of(cls)
    assert [field.name for field in described] == [field.name for field in fields(cls)]
    assert not [field.name for field in described if not field.description]


def test_a_key_shows_what_it_takes_and_its_default() -> None:
    lines = settings.recipe_keys().splitlines()
    (scheme,) = (line for line in lines if line.startswith("| `scheme` "))
    assert scheme.split(" | ")[1:3] == ["`w8a8`, `w8`", '`"w8a8"`']
    (name,) = (line for line in lines if line.startswith("| `name` "))
    assert name.split(" | ")[1:3] == ["string", "required"]


def test_every_combination_that_fails_is_listed_with_its_sources() -> None:
    sections = compatibility.known_bad().split("### ")[1:]
    rows = known_bad()
    assert [section.partition("\n")[0] for section in sections] == [row.name for row in rows]
    for row, section in zip(rows, sections, strict=True):
        assert all(text in section for text in row.sources)
    assert "(https://github.com/pytorch/pytorch/issues/146803)" in "".join(sections)


def test_the_sdk_has_every_argument_and_error_of_a_function() -> None:
    section = sdk.sdk_sections().partition("## edgekit.load\n")[2].partition("\n## ")[0]
    parameters = inspect.signature(edgekit.load).parameters
    assert parameters
    assert all(f"\n- `{name}`: " in section for name in parameters)
    assert "\n- [`GoldenError`](errors.md#goldenerror): With `verify`" in section


def test_text_of_the_code_stays_what_it_is_in_markdown() -> None:
    assert plain("--output <DIR> & `<b>`") == "--output &lt;DIR&gt; &amp; `<b>`"
    assert table(["a"], [["b|c"]]).splitlines()[-1] == "| b\\|c |"
