"""Shell completion: what is offered, nothing on stderr, and a real bash."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.cli import COMPLETION, completion
from edgekit.cli.main import main
from edgekit.config.recipes import list_recipes
from edgekit.config.runtimes import INTERPOLATIONS, PRECISIONS, RUNTIMES, SCHEMES, TASKS, DeviceClass

Complete = Callable[..., list[str]]
NAMES = ("convnextv2_atto.fcmae_ft_in1k", "resnet18.a1_in1k")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the names of two models in the cache, two saved devices, and an empty current folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    (tmp_path / "cache" / "edgekit").mkdir(parents=True)
    (tmp_path / "cache" / "edgekit" / f"timm-{metadata.version('timm')}.txt").write_text("\n".join(NAMES))
    (tmp_path / "devices.toml").write_text('[pi5]\nurl = "ssh://pi5"\n[lab]\nurl = "ssh://lab"\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Complete:
    """What bash would be offered for the last of these words, which may be the beginning of one."""

    def run(*words: str) -> list[str]:
        monkeypatch.setenv(COMPLETION, "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["edgekit", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        assert main([]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out.split()

    return run


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["deploy", "--recipe", ""], list_recipes()),
        (["deploy", "--recipe", "conv"], [name for name in list_recipes() if name.startswith("conv")]),
        (["plan", "--device-class", ""], DeviceClass.listed()),
        (["devices", "add", "--class", ""], DeviceClass.listed()),
        (["deploy", "--device", ""], ["local", "web", "pi5", "lab"]),
        (["inspect", "--device", "p"], ["pi5"]),
        (["doctor", ""], ["local", "pi5", "lab"]),
        (["devices", "remove", "l"], ["lab"]),
        (["compile", "--target", ""], list(RUNTIMES)),
        (["deploy", "--target", "onnx", "--target", "t"], ["tflite"]),
        (["deploy", "--runtime", "o"], ["openvino", "onnx"]),
        (["deploy", "--target", "onnx,"], ["onnx,openvino", "onnx,tflite"]),
        (["deploy", "--device", "pi5,l"], ["pi5,local", "pi5,lab"]),
        (["deploy", "--precision", ""], PRECISIONS),
        (["quantize", "--scheme", ""], SCHEMES),
        (["deploy", "--task", ""], TASKS),
        (["soup", "--method", ""], ["uniform", "greedy"]),
        (["plan", "--interpolation", ""], INTERPOLATIONS),
        (["deploy", "--weights", "r"], ["random"]),
        (["deploy", "res"], [NAMES[1]]),
        (["quantize", "conv"], [NAMES[0]]),
        (["sensitivity", "de"], ["demo"]),
        (["soup", "--model", "res"], [NAMES[1]]),
        (["dep"], ["deploy"]),
        (["devices", "c"], ["clean"]),
        (["deploy", "--max"], ["--max-drop"]),
        (["deploy", "--data", ""], []),
        (["deploy", "--seed", "x", "--recipe", "res"], ["resnet"]),
    ],
)
def test_offers(words: list[str], offered: list[str], complete: Complete) -> None:
    assert complete(*words) == list(offered)


def test_fish_shows_whole_summaries(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(COMPLETION, "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "edgekit ")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert "deploy\tQuantize, compile, evaluate, benchmark and report, for every runtime." in out.splitlines()
    assert "..." not in out
    assert err == ""


def test_files_complete_beside_names(complete: Complete, home: Path) -> None:
    (home / "here" / "sub").mkdir()
    for name in ("mine.toml", "weights.pth", "notes.txt", "sub/own.toml"):
        (home / "here" / name).touch()
    assert complete("deploy", "--recipe", "m") == ["mine.toml"]
    assert complete("deploy", "--recipe", "sub/") == ["sub/own.toml"]
    assert complete("plan", "--device-class", "") == [*DeviceClass.listed(), "mine.toml"]
    assert complete("deploy", "--weights", "") == ["random", "weights.pth"]
    assert complete("deploy", "--recipe", "gone/") == []


def test_models_of_timm_are_listed_once_for_each_version(
    complete: Complete, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home / "cache")
    calls = []

    def list_models(pretrained: bool = False) -> list[str]:
        calls.append(pretrained)
        return ["tiny.tag"] if pretrained else ["tiny"]

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(list_models=list_models))
    assert complete("deploy", "ti") == ["tiny", "tiny.tag"]
    assert complete("deploy", "ti") == ["tiny", "tiny.tag"]
    assert len(calls) == 2
    assert [path.name for path in (home / "cache" / "edgekit").iterdir()] == [f"timm-{metadata.version('timm')}.txt"]


def test_models_of_open_clip_complete_without_importing_it(complete: Complete, home: Path) -> None:
    pytest.importorskip("open_clip")
    code = "import sys; from edgekit.cli.completion import OFFERS; print(*OFFERS['model'](''))\n"
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home)
    assert {"open_clip:coca_ViT-B-32", *NAMES} <= set(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["deploy", "x"],
        ["sensitivity", "x"],
        ["deploy", "--device", "x"],
        ["deploy", "--recipe", "x"],
        ["inspect", "--dev", ""],
    ],
)
def test_nothing_is_printed_when_a_source_is_missing(
    words: list[str], complete: Complete, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "devices.toml").write_text("[")
    shutil.rmtree(home / "cache")
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(completion, "list_recipes", lambda: 1 / 0)
    assert complete(*words) == []


def test_without_typer_the_prompt_stays_clean(home: Path) -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom edgekit.cli.main import entry\nentry()"
    environment = {**os.environ, COMPLETION: "complete_bash", "COMP_WORDS": "edgekit\nde", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == 2


def test_completes_as_a_module() -> None:
    environment = {**os.environ, COMPLETION: "complete_bash", "COMP_WORDS": "edgekit\ndep", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "edgekit"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("deploy\n", "")


def test_bash_completes_with_the_script_that_the_command_shows() -> None:
    """The console script shows the completion script to bash, which then calls the console script to complete."""
    bash, command = shutil.which("bash"), Path(sys.executable).parent / "edgekit"
    if bash is None or not command.is_file():
        pytest.skip("needs bash, and edgekit's console script next to this Python")
    script = f"""
edgekit() {{ {command} "$@"; }}
source <(edgekit --show-completion)
complete -p edgekit
COMP_WORDS=(edgekit deploy resnet18.a1_in1k --recipe res)
COMP_CWORD=4
_edgekit_completion {command}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["complete -o default -F _edgekit_completion edgekit", "resnet"]
