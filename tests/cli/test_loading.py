"""A sign of life before torch is imported, which takes seconds."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.models.demo import assets
from edgekit.support.progress import LOADING

MARK = "<torch is being imported>"
CODE = f"""
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.write(STDERR, b"{MARK}")
            raise ModuleNotFoundError("no torch", name="torch")

STDERR = os.dup(2)  # stderr itself is closed to libraries while they are imported
sys.meta_path.insert(0, Finder())
from edgekit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
DATA = ["--data", str(assets() / "evaluation.zip")]
MODEL = ["convnextv2_atto", "--weights", "random", *DATA]
COMMANDS = [
    ["deploy", *MODEL],
    ["deploy", *MODEL, "--json"],
    ["deploy", *MODEL, "--dry-run"],
    ["demo"],
    ["plan", "resnet18"],
    ["quantize", *MODEL],
    ["compile", *MODEL],
    ["sensitivity", "demo"],
    ["soup", "a.safetensors", "b.safetensors", "--output", "c.safetensors"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_line_comes_before_torch_is_imported(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *command], capture_output=True, cwd=tmp_path, check=False)
    err = done.stderr.decode()
    assert err.startswith(f"{LOADING} ...\n{MARK}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "'torch' is not installed" in err
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_shows_a_running_clock_before_torch_is_imported(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "demo"], stdin=end, stdout=subprocess.DEVNULL, stderr=end, cwd=tmp_path
    )
    os.close(end)
    shown = b""
    try:
        while part := os.read(terminal, 1024):
            shown += part
    except OSError:  # how Linux says that the other end was closed
        pass
    finally:
        os.close(terminal)
    assert process.wait() == 2
    before, mark, _ = shown.decode().partition(MARK)
    assert mark
    assert LOADING in before
    assert "0:00:0" in before


@pytest.mark.parametrize("command", [["demo"], ["plan", "resnet18"]], ids=" ".join)
def test_quiet_says_nothing(command: list[str], tmp_path: Path) -> None:
    line = [sys.executable, "-c", CODE, *command, "--quiet"]
    err = subprocess.run(line, capture_output=True, cwd=tmp_path, check=False).stderr.decode()
    assert err.startswith(MARK)


@pytest.mark.parametrize("command", [["targets"], ["doctor"], ["report", "gone"], ["benchmark", "gone"]])
def test_commands_that_need_no_torch_say_nothing(command: list[str], tmp_path: Path) -> None:
    line = [sys.executable, "-c", CODE, *command]
    err = subprocess.run(line, capture_output=True, cwd=tmp_path, check=False).stderr.decode()
    assert LOADING not in err
    assert MARK not in err
