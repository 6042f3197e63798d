"""Progress shows bars on a terminal, plain lines in a pipe, warnings always, and libraries' output never."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.support.progress import Reporter

WORK = """
import os
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
reporter = Reporter(QUIET)
reporter.say("[bold]a line[/bold] :warning:")
with reporter.stage("count", 3) as step, quiet():
    for _ in range(3):
        print("noise of a library")
        os.write(1, b"noise of C\\n"); os.write(2, b"noise of C\\n")
        reporter.warn("an image is broken")
        step()
with reporter.stage("no total"):
    pass
print("result")
"""


def test_messages_control_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say("a\x1b[2Jb")
    reporter.warn("skipped \x1b]0;title\x07.png")
    assert capfd.readouterr().err == "ab\nwarning: skipped �]0;title�.png\n"


def run_on_terminal(code: str) -> tuple[str, str]:
    """Run Python code whose stderr is a terminal. Returns its stdout and the text on the terminal."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=follower, env=environment, text=True
    ) as process:
        os.close(follower)
        screen = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux raises this when the other side has closed
                break
            if not part:
                break
            screen += part
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(leader)
    assert process.returncode == 0, screen
    return out, screen.decode()


def test_bar_on_a_terminal() -> None:
    out, screen = run_on_terminal(WORK.replace("QUIET", "False"))
    assert out == "result\n"
    assert "━" in screen
    assert "3/3" in screen
    assert "\x1b[" in screen
    assert "noise" not in screen
    assert "[bold]a line[/bold] :warning:" in screen
    assert screen.count("warning: an image is broken") == 3
    assert screen.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in screen, "the cursor must come back"


LONG = """
import time
from edgekit.support import progress
progress.LONG_S = 0.01
reporter = progress.Reporter(False)
with reporter.stage("calibrate", 40) as step:
    first, second, last = progress.parts_of(progress.part_of(step, 40), (1, 1, 2))
    for part in (first, second, last):
        time.sleep(0.3)
        part()
with reporter.stage("no total"):
    time.sleep(0.3)
"""
"""A stage that counts as long from its beginning, and is half done after 0.6 seconds."""


def test_remaining_time_of_a_long_stage() -> None:
    _, screen = run_on_terminal(LONG)
    rows = [row for row in re.split("[\r\n]+", screen) if "calibrate" in row or "no total" in row]
    assert any("0/40" in row and " left" not in row for row in rows), "nothing is known before the first step"
    assert any(re.search(r"20/40.* 0:00:0\d left", row) for row in rows)
    assert "40/40" in screen
    assert not [row for row in rows if " left" in row and ("40/40" in row or "no total" in row)]


SEVERAL = """
import threading
from edgekit.support.progress import Reporter
reporter = Reporter(False)
copied, timing, timed = (threading.Event() for _ in range(3))
def first():
    with reporter.stage("pi4: copy"):
        copying.wait()
    copied.set()
    with reporter.stage("pi4: time", 2) as step:
        timing.wait()
        step(); step()
    timed.set()
def second():
    with reporter.stage("pi5: copy"):
        copying.wait()
        copied.wait()
    with reporter.stage("pi5: time", 2) as step:
        timing.set()
        step(); timed.wait(); step()
copying = threading.Barrier(2)
threads = [threading.Thread(target=work) for work in (first, second)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
"""Two devices. The second ends each of its stages after the first has ended its own."""


def test_stages_of_several_threads_share_a_display() -> None:
    _, screen = run_on_terminal(SEVERAL)
    assert "Traceback" not in screen
    assert "pi4: copy: " in screen, "a stage that ends before the others becomes a line"
    assert "pi4: time: 2 in " in screen
    assert "pi5: time" in screen
    assert "2/2" in screen


def test_quiet_on_a_terminal() -> None:
    out, screen = run_on_terminal(WORK.replace("QUIET", "True"))
    assert out == "result\n"
    assert screen.split("\r\n") == ["warning: an image is broken"] * 3 + [""]


def test_plain_lines_when_piped(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say("[bold]a line[/bold] that is " + "long " * 40)
    with reporter.stage("read images", 2) as step:
        step()
        step()
    with reporter.stage("time", 220) as step:  # which ends early
        step()
    with reporter.stage("export"):
        pass
    reporter.warn("'a [b].png' is broken")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.sub(r"[0-9.]+ s$", "0.0 s", err, flags=re.MULTILINE).splitlines() == [
        "[bold]a line[/bold] that is " + "long " * 40,
        "read images: 2 in 0.0 s",
        "time: 1 in 0.0 s",
        "export: 0.0 s",
        "warning: 'a [b].png' is broken",
    ]


def test_quiet_prints_only_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    reporter.say("a line")
    with reporter.stage("export"):
        pass
    reporter.warn("watch out")
    assert capfd.readouterr().err == "warning: watch out\n"


def test_a_stage_that_fails_is_not_reported_as_done(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), Reporter().stage("export"):
        raise ValueError("broken")
    assert capfd.readouterr().err == ""


def test_a_reporter_closes_its_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    reporter = Reporter()
    reporter.say("x")
    del reporter
    assert {fd for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists()} <= before
