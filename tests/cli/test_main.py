"""The command line itself: quick, quiet when asked, one JSON document, and exit codes that mean something."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import __version__
from edgekit.cli.frame import ELSEWHERE
from edgekit.cli.main import entry, main
from edgekit.errors import MissingExtraError
from edgekit.support import progress
from edgekit.support.libraries import SLEEPING, install_command
from edgekit.support.progress import lines_of
from tests.helpers.command_line import all_commands

COMMANDS = [
    "demo",
    "deploy",
    "benchmark",
    "inspect",
    "doctor",
    "quantize",
    "compile",
    "report",
    "compare",
    "evaluate",
    "classify",
    "devices",
]
# fmt: off
OPTIONS = [
    "--data", "--calibration-data", "--weights", "--target", "--device", "--device-class", "--recipe", "--model-args",
    "--mean", "--std", "--interpolation", "--crop-pct", "--labels", "--num-calibration-samples", "--num-eval-samples",
    "--seed", "--imgsz", "--threads", "--warmup", "--iterations", "--max-drop", "--min-speedup", "--output", "-o",
    "--wheels", "--json", "--quiet", "--dry-run",
]
# fmt: on


def python(code: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize("arguments", [["--help"], ["deploy", "--help"], ["--version"], ["deploy", "--bogus"]])
def test_what_needs_no_work_imports_nothing_heavy(arguments: list[str]) -> None:
    done = python(
        f"""
import sys
from edgekit.cli.main import main
main({arguments})
heavy = {{"numpy", "torch", "nncf", "PIL", "timm", "onnx", "onnxruntime", "openvino", "matplotlib"}} & set(sys.modules)
heavy |= {{"filelock", "msgspec", "platformdirs", "tomlkit"}} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_the_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capfd.readouterr()
    listed = [line[2:].split(" ")[0] for line in out.splitlines() if line.startswith("│")]
    assert [name for name in listed if name in COMMANDS] == COMMANDS
    assert err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"edgekit {command} [OPTIONS]" in capfd.readouterr().out


def test_deploy_has_the_common_options(capfd: pytest.CaptureFixture[str]) -> None:
    main(["deploy", "--help-all"])
    out = capfd.readouterr().out
    assert [option for option in OPTIONS if option not in out] == []


def test_demo_has_those_that_make_sense(capfd: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--help-all"])
    out = capfd.readouterr().out
    own = {"--model-args", "--imgsz", "--mean", "--std", "--interpolation", "--crop-pct", "--crop-mode", "--labels"}
    assert [option for option in OPTIONS if option not in own and option not in out] == []


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"edgekit {__version__}\n"


@pytest.mark.parametrize(("own", "policy"), [(None, SLEEPING[1]), ("ACTIVE", "ACTIVE")])
def test_torchs_threads_sleep_unless_the_user_decided(
    own: str | None, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SLEEPING[0], raising=False)
    if own:
        monkeypatch.setenv(SLEEPING[0], own)
    main(["--version"])
    assert os.environ[SLEEPING[0]] == policy


def test_nothing_at_all_shows_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert "Usage: edgekit" in out + err


def test_module_and_console_script(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "edgekit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgekit {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["edgekit", "bogus"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 2


def test_the_module_takes_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """Its child processes wouldn't either: they get the same path."""
    for name in ("typer", "rich", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    command = [sys.executable, "-m", "edgekit", "targets"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "raspberry-pi-5" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["bogus"], ["'bogus' in `edgekit bogus`", "demo, deploy, quantize", "edgekit --help"]),
        (["deploi"], ["'deploy'", "edgekit --help"]),
        (["deploy"], ["'MODEL' in `edgekit deploy`", "edgekit deploy --help"]),
        (["deploy", "x", "--bogus"], ["--bogus in `edgekit deploy x --bogus`", "edgekit deploy --help"]),
        (["deploy", "x", "--dat", "y"], ["--data"]),
        (["demo", "--iterations", "0"], ["--iterations is '0'", "at least 1"]),
        (["demo", "--warmup", "-1"], ["--warmup is '-1'", "at least 0"]),
        (["demo", "--seed"], ["'--seed'", "edgekit demo --help"]),
        (["soup", "a", "--method", "x"], ["--method is 'x'", "uniform or greedy"]),
        (["evaluate"], ["'BUNDLE' in `edgekit evaluate`", "edgekit evaluate --help"]),
        (["devices"], ["`edgekit devices`", "add, list, remove, clean", "edgekit devices --help"]),
        (["devices", "add", "pi"], ["'URL'", "edgekit devices add --help"]),
        (["demo", "--output="], ["--output is empty in `edgekit demo --output=`"]),
        (["export", "x"], ["`edgekit deploy`"]),
        (["version"], ["`edgekit --version`"]),
        (["deploy", "x", "--format", "onnx"], ["`--target`"]),
        (["deploy", "x", "--resume"], ["The same command resumes"]),
        (["deploy", "x", "--target", "tensorrt", "--data", "nope"], ["tensorrt", "openvino, onnx, tflite"]),
        (["deploy", "x", "--device", "cuda", "--data", "nope"], ["unknown device 'cuda'"]),
        (["--help-all"], ["`edgekit COMMAND --help-all`"]),
        (["report", "nope"], ["'nope' doesn't exist"]),
        (["inspect", "nope.onnx"], ["'nope.onnx' doesn't exist"]),
    ],
)
def test_usage_errors(arguments: list[str], parts: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("edgekit: error: ")
    assert [part for part in parts if part not in err] == []


def test_hints_name_what_a_command_has(capfd: pytest.CaptureFixture[str]) -> None:
    """Options and commands of other tools, each hint with options that exist."""
    assert main(["quantize", "x", "--int8"]) == 2  # quantize has no --precision
    assert "--precision" not in capfd.readouterr().err
    commands = dict(all_commands())
    flags = {flag for each in commands.values() for option in each.params for flag in option.opts}
    for hint in ELSEWHERE.values():
        for words in re.findall("`([^`]+)`", hint):
            named = re.findall(r"edgekit ([a-z]+(?: list)?)", words)
            assert set(named) <= commands.keys(), words
            assert set(re.findall(r"--[\w-]+", words)) <= flags | {"--help-all", "--version", "--traceback"}, words


def test_help_is_a_command_and_devices_have_short_names(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    assert main(["help", "deploy"]) == 0
    assert "Usage: edgekit deploy" in capfd.readouterr().out
    assert main(["devices", "add", "pi5", "pi@raspberrypi.local"]) == 0
    assert main(["device", "ls"]) == 0
    assert "ssh://pi@raspberrypi.local" in capfd.readouterr().out
    assert main(["devices", "rm", "pi5"]) == 0


def test_unexpected_errors_are_bugs_and_show_where(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.config import recipes as catalogue

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(catalogue, "list_recipes", broken)
    with pytest.raises(ZeroDivisionError):
        main(["targets"])


def test_the_command_calls_an_unexpected_error_a_bug() -> None:
    done = python(
        """
import sys
from edgekit.cli.main import entry
from edgekit.config import recipes
recipes.list_recipes = lambda: 1 / 0
sys.argv = ["edgekit", "targets"]
entry()
"""
    )
    assert (done.returncode, done.stdout) == (70, "")
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "this is a bug in edgekit" in done.stderr.splitlines()[-1]
    assert "edgekit: error: " not in done.stderr


@pytest.mark.parametrize("before", [True, False])
def test_traceback_shows_every_error_of_the_chain(
    before: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff")
    command = ["inspect", str(tmp_path)]
    assert main(command) == 2
    plain = capfd.readouterr().err
    assert "Traceback" not in plain
    assert main(["--traceback", *command] if before else [*command, "--traceback"]) == 2
    shown = capfd.readouterr().err
    assert shown.count("Traceback (most recent call last)") >= 2
    assert "UnicodeDecodeError" in shown
    assert shown.endswith(plain)


def test_traceback_is_an_argument_behind_two_dashes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--", "--traceback"]) == 2
    err = capfd.readouterr().err
    assert "'--traceback' doesn't exist" in err
    assert "Traceback" not in err


def test_help_lists_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert progress.TRACEBACK_OPTION in capfd.readouterr().out
    assert main([progress.TRACEBACK_OPTION, "targets"]) == 0


def missing(package: str, extra: str) -> str:
    """What the command prints when a package of an extra is missing."""
    error = MissingExtraError(f"'{package}' is not installed", fix=f"Run: {install_command(extra)}")
    return "\n".join(lines_of(error)) + "\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_cli_extra_the_command_says_how_to_get_it(package: str) -> None:
    done = python(f"import sys; sys.modules['{package}'] = None\nfrom edgekit.cli.main import entry\nentry()")
    assert done.returncode == 2
    assert done.stderr == missing(package, "cli")


def test_without_rich_a_job_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['rich'] = None\nfrom edgekit.cli.main import main\nsys.exit(main(['demo']))"
    done = python(code, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == missing("rich", "cli")


@pytest.mark.parametrize("command", [["benchmark", "x"], ["report", "x"]])
def test_without_msgspec_a_command_says_how_to_get_it(command: list[str], tmp_path: Path) -> None:
    code = f"import sys; sys.modules['msgspec'] = None\nfrom edgekit.cli.main import main\nsys.exit(main({command}))"
    done = python(code, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == missing("msgspec", "cli")


@pytest.mark.parametrize(
    "package", ["torch", *(pytest.param(each, marks=pytest.mark.slow) for each in ("nncf", "timm"))]
)
def test_without_the_build_extra_a_job_says_how_to_get_it(package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['{package}'] = None\nfrom edgekit.cli.main import main\nsys.exit(main(['demo']))"
    done = python(code, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(missing(package, "build"))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "targets"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_targets(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "target        onnx: ONNX Runtime" in lines
    assert any(line.startswith("device class  raspberry-pi-5: ") for line in lines)
    assert any(line.startswith("recipe        convnextv2: ") for line in lines)
    assert main(["targets", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in found["targets"]] == ["openvino", "onnx", "tflite"]
    assert {"raspberry-pi-4", "raspberry-pi-5", "x86-64-v3", "x86-64-v4"} <= {
        each["name"] for each in found["device_classes"]
    }


def test_targets_of_a_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    """Each table's rewrites are listed in the order of application, with `add` and `drop` applied."""
    assert main(["targets", "--recipe", "vit"]) == 0
    lines = capfd.readouterr().out.splitlines()
    place = lines.index('[openvino.on."x86-64-*"] x86-64-v3, x86-64-v4')
    assert lines[place + 1 : place + 3] == [
        "  float  layer-scale, layer-norm-affine, polynomial-gelu",
        "  int8   layer-scale, polynomial-gelu",
    ]
    assert main(["targets", "--recipe", "convnextv2", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    listed = {(row["target"], row["on"], row["precision"]): row for row in document["rewrites"]}
    int8 = listed["tflite", None, "int8"]
    assert int8["device_classes"] == ["x86-64-v3", "x86-64-v4"]
    assert int8["rewrites"][3:6] == ["centred-layer-norm", "channels-last", "image-patch-linear"]
    assert listed["tflite", "raspberry-pi-*", "int8"]["device_classes"] == ["raspberry-pi-5"], "4 has a table before"
    assert main(["targets", "--recipe", "convnext"]) == 2
    assert "'convnextv2'" in capfd.readouterr().err


def test_json_is_alone_on_stdout_whatever_libraries_print() -> None:
    """In a process of its own: here sys.stdout is pytest's."""
    done = python(
        """
import os, sys
from edgekit.config import recipes
real = recipes.list_recipes
def noisy():
    print("python noise"); os.write(1, b"C noise\\n")
    return real()
recipes.list_recipes = noisy
from edgekit.cli import frame
inside = frame.clean_stdout
import contextlib
@contextlib.contextmanager
def noisy_stdout():
    with inside() as out:
        noisy()
        yield out
frame.clean_stdout = noisy_stdout
from edgekit.cli.main import main
recipes.list_recipes = real
sys.exit(main(["targets", "--json"]))
"""
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 1
    assert sorted(done.stderr.splitlines()) == ["C noise", "python noise"]


def test_missing_extra_in_an_import_inside(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def missing(arguments: list[str]) -> int:
        raise MissingExtraError('nothing is installed. Run: pip install "edgekit-deploy[tflite]"')

    monkeypatch.setattr("edgekit.cli.frame.run", missing)
    assert main([]) == 2
    assert 'pip install "edgekit-deploy[tflite]"' in capfd.readouterr().err
