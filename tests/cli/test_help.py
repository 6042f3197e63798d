"""The help of the command line: nothing is cut off or missing. tests/test_same.py holds its whole text."""

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from edgekit import __version__
from edgekit.cli import frame
from edgekit.cli.main import main
from edgekit.job import declarations, flag_of
from edgekit.models.loading import SOURCES, find_source
from edgekit.models.module_source import ModuleSource
from edgekit.models.options import ModelOptions
from edgekit.models.transformers_source import TransformersSource
from tests.helpers.command_line import all_commands
from tests.helpers.recorded import FOLDER

EVERY = {"": None, "devices": None, **dict(all_commands())}
"""The commands by the words that call them, and the two that only list others."""


@pytest.mark.parametrize(
    ("arguments", "package"), [(["--version"], "rich"), (["targets"], "rich"), (["deploy", "--help"], "pydantic")]
)
def test_help_and_other_commands_leave_out_what_they_do_not_need(arguments: list[str], package: str) -> None:
    """Rich draws the help, pydantic converts values: each takes about as long to import as all else together."""
    code = f"import sys\nfrom edgekit.cli.main import main\nmain({arguments})\nsys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture
def show_help(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The text that `--help`, or another option, prints after these words in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def shown(words: str, option: str = "--help") -> str:
        assert main([*words.split(), option]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return shown


def test_no_help_text_is_cut_off_or_taken_for_markup(show_help: Callable[..., str]) -> None:
    for words, command in EVERY.items():
        shown = show_help(words)
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown, words
        text = " ".join(shown.replace("│", " ").split())
        assert not re.search(r"<\w+|TEXT|INTEGER|\[[\d.<>=x]+\]|default: \(|\{", text), "types, ranges or None"
        for option in command.params if command else ():
            if not getattr(option, "hidden", False):
                assert " ".join(option.meaning.split()[-2:]) in text, (words, option.name)


def test_every_option_has_its_place() -> None:
    for name, command in all_commands():
        for option in command.params:
            if option.param_type_name == "option":
                assert option.rich_help_panel in frame.OPTION_PANELS, (name, option.name)
                assert option.meaning.endswith("."), (name, option.name)
            assert option.help, (name, option.name)


@pytest.mark.parametrize("words", ["", "devices", "deploy", "devices add"])
def test_short_names_of_help_and_version(words: str, show_help: Callable[..., str]) -> None:
    assert show_help(words, "-h") == show_help(words)
    assert show_help(words, "-V") == show_help(words, "--version") == f"edgekit {__version__}\n"


def test_examples_name_commands() -> None:
    examples = re.findall(r"^ +edgekit ([a-z].*)$", (FOLDER / "help.txt").read_text(), re.MULTILINE)
    assert len(examples) > 10
    assert [line for line in examples if not line.startswith(tuple(name for name in EVERY if name))] == []


MODELS = {
    "timm name": "resnet18",
    "torchvision:NAME": "torchvision:resnet18",
    "open_clip:NAME": "open_clip:ViT-B-32",
    "hf_hub:USER/MODEL": "hf_hub:timm/resnet18.a1_in1k",
    "module:factory": "my_package.models:classifier",
    ".onnx file": "model.onnx",
}
"""Each form of a model's name that help gives, and an example."""


def test_every_help_of_a_model_names_every_source() -> None:
    typed = {type(source) for source in SOURCES} - {
        TransformersSource,
        ModuleSource,
    }  # one is for folders, one for Python
    assert {type(find_source(ModelOptions(name))) for name in MODELS.values()} == typed
    texts = {
        f"{words} {option.name}": option.help
        for words, command in all_commands()
        for option in command.params
        if re.search("timm name", str(option.help))
    }
    expected = {"deploy models", "plan model", "quantize model", "compile source", "sensitivity model_or_demo"}
    assert set(texts) == expected | {"soup model_or_demo"}
    for command, text in texts.items():
        forms = [form for form in MODELS if form != ".onnx file" or command != "soup model_or_demo"]
        assert [form for form in forms if form not in text] == [], command


def test_only_help_all_lists_what_few_need(show_help: Callable[..., str]) -> None:
    """What the first page of a command's help shows can be held in mind; nothing that it leaves out is undocumented."""

    def listed(words: str, option: str = "--help") -> set[str]:
        return set(re.findall(r"^│ (--[\w-]+)", show_help(words, option), re.MULTILINE))

    assert len(listed("deploy")) <= 22
    assert len(listed("demo")) <= 8
    assert listed("deploy", "--help-all") >= {flag_of(name) for name in declarations()}
    assert len({name.split()[0] for name in EVERY if name}) <= 20
