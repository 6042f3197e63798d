"""The GitHub Action: what action.yml promises, and its steps, run as GitHub runs them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.job import declarations
from tests.helpers.tiny import ROOT

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
INSTALL, DEPLOY = ACTION["runs"]["steps"]
SINGULAR = runpy.run_path(str(ROOT / ".github" / "deploy.py"))["SINGULAR"]
STAND_IN = f"""#!{sys.executable}
import sys
from pathlib import Path
Path("arguments").write_text("\\n".join(sys.argv[1:]))
for name in ("report.json", "junit.xml"):
    Path("out", name).write_text("")
sys.exit(1)
"""
"""An `edgekit` that records its arguments, writes the files of a run, and reports that a gate failed."""


def run_step(step: dict[str, Any], folder: Path, path: Path, **inputs: str) -> tuple[int, str, dict[str, str]]:
    """Run a step with these inputs, and `path` before others on PATH: exit code, what it printed, its outputs."""
    values = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()} | inputs
    given = {
        name: value.replace("${{ toJSON(inputs) }}", json.dumps(values)).replace(
            "${{ inputs.pip-args }}", values["pip-args"]
        )
        for name, value in step.get("env", {}).items()
    }
    assert "${{" not in step["run"] + "".join(given.values())
    outputs = folder / "outputs"
    outputs.touch()
    github = {
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    python = str(Path(sys.executable).parent)
    done = subprocess.run(
        [step["shell"], "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join((str(path), python, os.environ["PATH"])), **github, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.partition("=") for line in outputs.read_text().splitlines()]
    return done.returncode, done.stdout, {name: value for name, _, value in lines}


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with STAND_IN as `edgekit`."""
    program = tmp_path / "bin" / "edgekit"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return program.parent


def test_the_action_is_complete() -> None:
    assert ACTION["name"]
    assert ACTION["description"]
    assert ACTION["runs"]["using"] == "composite"
    assert set(ACTION["inputs"]) >= {"model", "data", "targets", "args"}
    assert all(
        each["description"] and ("default" in each) != each.get("required") for each in ACTION["inputs"].values()
    )
    assert set(ACTION["outputs"]) == {"report", "junit", "exit-code"}
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.{DEPLOY['id']}.outputs.{name} }}}}"
    shown = {name.replace("_", "-") for name, option in declarations().items() if not option.advanced}
    assert set(ACTION["inputs"]) == {"model", "args", "pip-args", *shown}
    flags = {flag for name in declarations() for flag in declarations()[name].flags_of(name)}
    assert {f"--{SINGULAR.get(name, name)}" for name in shown} <= flags


def test_an_installed_edgekit_is_not_installed_again(tmp_path: Path, stand_in: Path) -> None:
    code, printed, _ = run_step(INSTALL, tmp_path, stand_in)
    assert (code, printed) == (0, f"{stand_in / 'edgekit'}\n")


def test_a_failed_gate_fails_the_step_and_leaves_its_files(tmp_path: Path, stand_in: Path) -> None:
    args = "--weights 'my best.pth' --max-drop 0.5 $(touch pwned)"
    inputs = {"model": "resnet18", "data": "a; touch pwned", "targets": "onnx, tflite", "args": args, "output": "out"}
    code, printed, outputs = run_step(DEPLOY, tmp_path, stand_in, **inputs)
    assert (code, printed) == (1, "")
    assert outputs == {"exit-code": "1", "report": "out/report.json", "junit": "out/junit.xml"}
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "deploy", "--weights", "my best.pth", "--max-drop", "0.5", "$(touch", "pwned)",
        "--data=a; touch pwned", "--target=onnx,tflite", "--output=out", "--junit", "out/junit.xml",
        "--summary", str(tmp_path / "summary.md"), "--", "resnet18",
    ]  # fmt: skip
    assert not (tmp_path / "pwned").exists()


def test_wrong_input_ends_with_2_and_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("from an earlier job")
    inputs = {"model": "resnet18", "data": "gone", "output": "out"}
    code, printed, outputs = run_step(DEPLOY, tmp_path, tmp_path, **inputs)
    assert (code, outputs) == (2, {"exit-code": "2", "report": "", "junit": ""})
    assert "'gone'" in printed
    assert (tmp_path / "out" / "report.json").read_text() == "from an earlier job"


def test_quotes_that_do_not_match_are_wrong_input(tmp_path: Path, stand_in: Path) -> None:
    code, printed, outputs = run_step(DEPLOY, tmp_path, stand_in, model="m", data="d", args="--labels 'x", output="out")
    assert (code, outputs["exit-code"]) == (2, "2")
    assert printed.startswith("::error::the input args is")
    assert not (tmp_path / "arguments").exists()


def test_line_breaks_are_no_further_outputs_or_commands(tmp_path: Path, stand_in: Path) -> None:
    code, printed, outputs = run_step(
        DEPLOY, tmp_path, stand_in, model="m", args="'\n::set-env", output="out\nreport=x"
    )
    assert (code, outputs) == (2, {"exit-code": "2", "report": "", "junit": ""})
    assert len(printed.splitlines()) == 1
    assert "output has a line break" in printed
    assert not (tmp_path / "arguments").exists()


def test_a_model_that_looks_like_an_option_is_a_model(tmp_path: Path) -> None:
    code, printed, _ = run_step(DEPLOY, tmp_path, tmp_path, model="--version", data="gone", output="out")
    assert code == 2
    assert "'gone'" in printed


def test_pip_gets_further_arguments(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    stand_in.joinpath("edgekit").rename(stand_in / "python")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(sys, "executable", str(stand_in / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    run_step(INSTALL, tmp_path, stand_in, **{"pip-args": "--extra-index-url a;b f*"})
    assert (tmp_path / "arguments").read_text().splitlines()[-3:] == ["--extra-index-url", "a;b", "f*"]
