"""The log in the run folder contains the libraries' output, including the last lines of a process that aborts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import CompileError, EngineError
from edgekit.measure import fresh_process
from edgekit.support import child_process
from edgekit.support.child_process import run_python, start_python
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import STATE, open_run

LAST_WORDS = "terminate called after throwing an instance of 'std::bad_alloc'"


def abort(words: str) -> None:
    """Die as C++ does, while libraries are silenced: print a line on descriptor 2, then raise SIGABRT."""
    with quiet():
        os.write(2, f"{words}\n".encode())
        os.abort()


ABORTS = f"import tests.support.test_library_log as log; log.abort({LAST_WORDS!r})"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "run" / STATE / child_process.NAME


def test_both_streams_are_logged_while_a_run_is_open(
    tmp_path: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def speak(word: str) -> None:
        with quiet():
            os.write(1, f"stdout {word}\n".encode())
            os.write(2, f"stderr {word}\n".encode())

    speak("before")
    with open_run(tmp_path / "run"):
        speak("inside")
        os.write(2, b"edgekit's own\n")
    speak("after")
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("==")] == ["stdout inside", "stderr inside"]
    assert capfd.readouterr() == ("", "edgekit's own\n")


def test_the_last_words_of_a_process_that_aborts_are_logged(tmp_path: Path, log: Path) -> None:
    code = f"""
from pathlib import Path
from edgekit.support.run_folder import open_run
with open_run(Path({str(tmp_path / "run")!r})):
    {ABORTS}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, b"")
    assert LAST_WORDS in log.read_text().splitlines()


def test_the_last_words_of_children_are_logged(tmp_path: Path, log: Path) -> None:
    with open_run(tmp_path / "run"):
        assert run_python(["-c", ABORTS.replace(LAST_WORDS[:9], "first")]).returncode == -signal.SIGABRT
        with start_python(["-c", ABORTS.replace(LAST_WORDS[:9], "second")]) as child:
            child.wait()
        assert child.returncode == -signal.SIGABRT
    text = log.read_text()
    assert "first called after" in text
    assert "second called after" in text


def test_text_from_elsewhere_controls_no_terminal(tmp_path: Path, log: Path) -> None:
    with open_run(tmp_path / "run"):
        child_process.note("board\x1b]0;title\x07", "\x1b[2Jred\x1b[0m\r\nnext \x9b1m")
    text = log.read_text("utf-8")
    assert "\nred\nnext \ufffd1m\n" in text
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]


def test_a_child_s_output_outside_of_quiet_is_logged(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path / "run"):
        run_python(["-c", "import os; os.write(2, b'loud\\n'); os.abort()"])
        monkeypatch.setattr(child_process, "_command", lambda words: words)  # a shell starts sooner than Python
        with pytest.raises(subprocess.TimeoutExpired):
            run_python(["sh", "-c", "echo slow >&2; exec sleep 60"], timeout=1)
    lines = log.read_text().splitlines()
    assert lines[lines.index("loud") - 1].endswith(f"exit status {-signal.SIGABRT}")
    assert lines[lines.index("slow") - 1].endswith("timed out")


def test_children_write_no_log_where_no_run_is_open(tmp_path: Path) -> None:
    done = run_python(["-c", f"import os; print(os.environ.get({child_process.VARIABLE!r}))"])
    assert done.stdout.strip() == "None"


def test_a_bundle_whose_process_aborts_has_its_last_words_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aborts(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -signal.SIGABRT, "", f"{LAST_WORDS}\n")

    monkeypatch.setattr(fresh_process, "run_python", aborts)
    with pytest.raises(EngineError, match=f"SIGABRT. It printed last: {LAST_WORDS}"):
        fresh_process.measure_fresh(tmp_path, threads=1)


def test_a_warning_logs_the_traceback_of_its_error_and_names_the_file(
    tmp_path: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter(quiet=True)
    with open_run(tmp_path / "run"), reporter.stage("onnx-int8: compile"):
        reporter.warn("onnx-int8: refused", CompileError("refused"))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: onnx-int8: refused (")
    assert str(log) in line
    lines = log.read_text().splitlines()
    assert lines.index("== onnx-int8: compile") < lines.index("== onnx-int8: refused")
    assert "edgekit.errors.CompileError: refused" in lines


def test_the_error_that_ends_a_command_is_logged(tmp_path: Path, log: Path) -> None:
    with pytest.raises(CompileError), open_run(tmp_path / "run"):
        raise CompileError("refused")
    assert "edgekit.errors.CompileError: refused" in log.read_text().splitlines()


def test_later_commands_append_until_the_file_is_large(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("first", "second"):
        with open_run(tmp_path / "run"):
            child_process.note(word)
    assert [line for line in log.read_text().splitlines() if " UTC: " not in line] == ["== first", "== second"]
    monkeypatch.setattr(child_process, "MOST_BYTES", 10)
    with open_run(tmp_path / "run"):
        child_process.note("third")
    assert [line for line in log.read_text().splitlines() if " UTC: " not in line] == ["== third"]


def test_a_log_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    with child_process.kept_in(tmp_path / "gone" / "log"), quiet():
        os.write(2, b"unheard\n")
        child_process.note("unheard")
    assert list(tmp_path.iterdir()) == []
