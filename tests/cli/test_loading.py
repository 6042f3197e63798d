"""A sign of life before torch is imported, which takes seconds."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from edgekit.models.demo import assets
from edgekit.support.progress import LOADING

MARK = "<torch is being imported>"
MARK_OF_NEXT = "<the next command>"
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
"""
ONE = f"{CODE}sys.exit(main(sys.argv[1:]))"
ALL = f"""{CODE}
import json
for command in json.loads(sys.argv[1]):
    os.write(STDERR, b"%d{MARK_OF_NEXT}" % main(command))
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


def run_in_turn(commands: list[list[str]], folder: Path) -> tuple[str, list[tuple[int, str]]]:
    """Run commands in one process. Returns their stdout, and the exit code and stderr of each."""
    line = [sys.executable, "-c", ALL, json.dumps(commands)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=True)
    *parts, rest = done.stderr.split(MARK_OF_NEXT)
    assert (len(parts), rest) == (len(commands), "")
    return done.stdout, [(int(part[-1]), part[:-1]) for part in parts]


def test_a_line_comes_before_torch_is_imported(tmp_path: Path) -> None:
    out, ends = run_in_turn(COMMANDS, tmp_path)
    assert out == ""
    for command, (code, err) in zip(COMMANDS, ends, strict=True):
        assert err.startswith(f"{LOADING} ...\n{MARK}"), command
        assert "'torch' is not installed" in err, command
        assert code == 2, command
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_shows_a_running_clock_before_torch_is_imported(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ONE, "demo"], stdin=end, stdout=subprocess.DEVNULL, stderr=end, cwd=tmp_path
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


def test_quiet_and_commands_that_need_no_torch_say_nothing(tmp_path: Path) -> None:
    quiet = [["demo", "--quiet"], ["plan", "resnet18", "--quiet"]]
    without = [["targets"], ["doctor"], ["report", "gone"], ["benchmark", "gone"]]
    _, ends = run_in_turn([*quiet, *without], tmp_path)
    assert not any(LOADING in err for _, err in ends)
    assert [MARK in err for _, err in ends] == [True] * 2 + [False] * 4
