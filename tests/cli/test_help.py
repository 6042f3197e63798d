"""The help of the command line: panels, whole summaries, examples, and nothing heavy to import."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import __version__
from edgekit.cli import frame
from edgekit.cli.main import main
from edgekit.job import DEMO, Job, declarations, flag_of
from edgekit.models.demo import assets
from edgekit.models.loading import SOURCES, find_source
from edgekit.models.module_source import ModuleSource
from edgekit.models.options import ModelOptions
from edgekit.models.transformers_source import TransformersSource
from tests.helpers.command_line import all_commands

JOB = {"deploy": frame.COMMANDS, "benchmark": frame.COMMANDS, "devices": frame.MORE}
FIRST = ["demo", "deploy", "benchmark", "inspect", "doctor"]


@pytest.mark.parametrize(
    ("arguments", "package"), [(["--version"], "rich"), (["targets"], "rich"), (["deploy", "--help"], "pydantic")]
)
def test_help_and_other_commands_leave_out_what_they_do_not_need(arguments: list[str], package: str) -> None:
    """Rich draws the help, pydantic converts values: each takes about as long to import as all else together."""
    code = f"import sys\nfrom edgekit.cli.main import main\nmain({arguments})\nsys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture(params=["80", "100"])
def show_help(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Any:
    """The text that `--help` prints after these words, at both widths."""
    monkeypatch.setenv("COLUMNS", request.param)

    def shown(*words: str) -> str:
        capfd.readouterr()
        assert main([*words, "--help"]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        assert max(map(len, out.splitlines())) <= int(request.param)
        return out

    return shown


def by_panel(text: str) -> dict[str, str]:
    """The panels of a help text: their content by title."""
    return dict(re.findall(r"╭─ ([\w ]+?) ─+╮\n(.*?)╰─", text, re.DOTALL))


def words_of(text: str) -> list[str]:
    """The words of a panel, without its frame."""
    return text.replace("│", " ").split()


def test_commands_are_grouped_and_no_summary_is_truncated(show_help: Any) -> None:
    shown = by_panel(show_help())
    assert [title for title in shown if title != "Options"] == [frame.COMMANDS, frame.MORE]
    for name, command in all_commands():
        if " " in name or command.hidden:
            continue
        summary = " ".join(command.help.partition("\n\n")[0].split())
        assert f"{name} {summary}" in " ".join(words_of(shown[command.rich_help_panel])), name


def listed(panel: str) -> list[str]:
    """The names of the commands in a panel."""
    return [line[2:].split(" ")[0] for line in panel.splitlines() if not line.startswith("│  ")]


def test_the_first_page_shows_six_commands_and_where_to_begin(show_help: Any) -> None:
    text = show_help()
    shown = by_panel(text)
    assert listed(shown[frame.COMMANDS]) == FIRST
    names = {name.split()[0] for name, command in all_commands() if not command.hidden}
    assert sorted(listed(shown[frame.MORE])) == sorted(names - set(FIRST))
    assert text.index("Begin with `edgekit demo`") < text.index(frame.COMMANDS)
    assert "edgekit deploy resnet18 --weights best.pth --data photos" in text


@pytest.mark.parametrize("words", [name for name, _ in all_commands()] + ["", "devices"])
def test_short_names_of_help_and_version(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "-h"]) == 0
    short = capfd.readouterr().out
    assert main([*words.split(), "--help"]) == 0
    assert capfd.readouterr().out == short
    for option in ("-V", "--version"):
        assert main([*words.split(), option]) == 0
        assert capfd.readouterr().out == f"edgekit {__version__}\n"


@pytest.mark.parametrize("words", [name for name, _ in all_commands()] + [""])
def test_no_types_and_ranges_in_help(words: str, show_help: Any) -> None:
    shown = " ".join(words_of(show_help(*words.split())))
    assert not re.search(r"<\w+|TEXT|INTEGER|\[[\d.<>=x]+\]|default: \(|\{", shown), shown


REQUIRED = {
    "deploy": "--data PATH [required]",
    "quantize": "--data PATH [required, unless --calibration-data is given]",
    "evaluate": "--data PATH [required]",
    "compile": "--data PATH [required for a model]",
    "sensitivity": "--data PATH [required, except for demo]",
    "soup": "--output -o FILE [required]",
}


@pytest.mark.parametrize("words", [name for name, _ in all_commands()])
def test_required_options_are_marked(words: str) -> None:
    """`--help` prints what the reference page has in its column of defaults."""
    command = dict(all_commands())[words]
    marked = [
        f"{' '.join(option.opts)} {option.metavar} [{option.default_in_words}]"
        for option in command.params
        if getattr(option, "default_in_words", "").startswith("required")
    ]
    assert marked == ([REQUIRED[words]] if words in REQUIRED else [])


def test_the_mark_and_the_default_in_words_are_shown(show_help: Any) -> None:
    shown = by_panel(show_help("deploy"))
    assert "[required]" in words_of(shown["Images"])
    assert "[required]" not in words_of(show_help("demo"))
    gates = " ".join(words_of(shown["Gates"]))
    assert "[default: the measured loss may be 1 point, whatever its interval]" in gates


@pytest.mark.parametrize(("name", "panel"), JOB.items())
def test_a_command_is_in_its_panel(name: str, panel: str, show_help: Any) -> None:
    assert name in listed(by_panel(show_help())[panel])


def test_every_option_is_documented_in_a_titled_panel() -> None:
    for name, command in all_commands():
        for option in command.params:
            if option.param_type_name == "option":
                assert option.rich_help_panel in frame.OPTION_PANELS, (name, option.name)
                assert option.meaning.endswith("."), (name, option.name)
            assert option.help, (name, option.name)


def test_the_options_of_deploy_stand_panel_by_panel(show_help: Any) -> None:
    shown = by_panel(show_help("deploy"))
    titles = [title for title in shown if title in frame.OPTION_PANELS]
    assert titles == list(frame.OPTION_PANELS)
    place = {"--weights": "Model", "--data": "Images", "--target": "Bundles", "--output": "Output"}
    place |= {"--device": "Device", "--threads": "Measurement", "--max-drop": "Gates"}
    for option, panel in place.items():
        assert option in " ".join(words_of(shown[panel])).replace(",", " ").split()
    assert "[default: all]" in " ".join(words_of(shown["Bundles"]))


@pytest.mark.parametrize("words", [name for name, _ in all_commands()] + ["", "devices"])
def test_no_help_text_is_cut_off_or_taken_for_markup(words: str, show_help: Any) -> None:
    shown = show_help(*words.split())
    assert "…" not in shown
    command = dict(all_commands()).get(words)
    for option in command.params if command else ():
        if not getattr(option, "hidden", False):
            assert " ".join(option.meaning.split()[-2:]) in " ".join(words_of(shown)), option.name


@pytest.mark.parametrize("words", ["deploy", "benchmark", "devices"])
def test_examples_are_complete_commands(words: str, show_help: Any) -> None:
    examples = [line.strip() for line in show_help(words).rpartition("Examples:")[2].splitlines() if line.strip()]
    assert len(examples) >= 3
    assert all(line.startswith(("edgekit ", "--")) for line in examples)
    known = {name for name, _ in all_commands()}
    for line in examples:
        if line.startswith("edgekit "):
            assert any(line.startswith(f"edgekit {name}") for name in known), line


def test_the_help_of_demo_names_its_own_defaults() -> None:
    shown = {option.name: option.show_default for option in dict(all_commands())["demo"].params}
    job = Job.of(DEMO, {})
    assert shown["output"] == str(job.folder)
    own = assets()
    for name, path in (
        ("weights", job.model_options.weights),
        ("data", job.data),
        ("calibration_data", job.calibration_data),
    ):
        assert Path(str(path)).is_relative_to(own)
        assert shown[name].startswith("edgekit's own"), name
    deploy = {option.name: option.show_default for option in dict(all_commands())["deploy"].params}
    assert deploy["output"] == "runs/MODEL", "the options of other commands are left alone"


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
    expected = {"deploy model", "plan model", "quantize model", "compile source", "sensitivity model_or_demo"}
    assert set(texts) == expected | {"soup model_or_demo"}
    for command, text in texts.items():
        forms = [form for form in MODELS if form != ".onnx file" or command != "soup model_or_demo"]
        assert [form for form in forms if form not in text] == [], command


def test_only_help_all_lists_what_few_need(show_help: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """What the first page of a command's help shows can be held in mind; nothing that it leaves out is undocumented."""
    shown = {name: re.findall(r"^│ (--[\w-]+)", show_help(name), re.MULTILINE) for name in ("deploy", "demo")}
    assert len(shown["deploy"]) <= 22
    assert len(shown["demo"]) <= 8
    capfd.readouterr()
    assert main(["deploy", "--help-all"]) == 0
    everything = re.findall(r"^│ (--[\w-]+)", capfd.readouterr().out, re.MULTILINE)
    assert set(everything) >= {flag_of(name) for name in declarations()}
    assert len(by_panel(show_help())) == 3
    assert len(listed(by_panel(show_help())[frame.COMMANDS]) + listed(by_panel(show_help())[frame.MORE])) <= 20
