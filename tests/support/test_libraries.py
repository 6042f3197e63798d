"""Libraries are silenced, and both streams are restored in every case."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import CompileError, MissingExtraError
from edgekit.support.libraries import LibraryErrors, first_line, import_needed, install_command, quiet, replaces_library

EVERYTHING = """
import logging, os, sys, warnings
from edgekit.support.libraries import quiet

def everything(word):
    print(f"print {word}")
    print(f"stderr {word}", file=sys.stderr)
    os.write(1, f"C stdout {word}\\n".encode())
    os.write(2, f"C stderr {word}\\n".encode())
    logging.getLogger("noisy").warning("log %s", word)
    warnings.warn(f"warning {word}")
    sys.stdout.flush()
"""


def streams(code: str) -> tuple[list[str], list[str]]:
    """Run EVERYTHING and then `code`. Returns the lines of stdout and stderr.

    The code needs a separate process, because pytest's sys.stdout has no descriptor 1.
    """
    done = subprocess.run([sys.executable, "-c", EVERYTHING + code], capture_output=True, text=True, check=False)
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize("raised", ["", "raise ValueError", "raise KeyboardInterrupt", "raise SystemExit"])
def test_silence_inside_and_streams_back_after(raised: str) -> None:
    out, err = streams(f"""
try:
    with quiet():
        everything("inside")
        {raised}
except BaseException as error:
    print("caught", type(error).__name__)
everything("after")
""")
    caught = [f"caught {raised.split()[1]}"] if raised else []
    assert sorted(out) == sorted(
        [*caught, "print after", "C stdout after"]
    )  # sorted, because Python's buffered output comes later
    assert [line for line in err if "after" in line][:3] == ["stderr after", "C stderr after", "log after"]
    assert any("warning after" in line for line in err)
    assert not any("inside" in line for line in err)


def test_output_from_before_the_block_is_not_lost() -> None:
    out, err = streams("""
print("before", end="")
with quiet():
    print("inside", end="")
print("after")
""")
    assert (out, err) == (["beforeafter"], [])


def test_nested() -> None:
    out, err = streams("""
with quiet():
    with quiet():
        everything("inner")
    everything("outer")
print("after")
""")
    assert (out, err) == (["after"], [])


def test_descriptors_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with quiet():
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_import_needed_returns_the_module() -> None:
    assert import_needed("json", "build").__name__ == "json"


def test_a_missing_package_is_fixed_by_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wants_more.py").write_text("import surely_not_installed.inner")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        import_needed("wants_more", "build")
    assert "surely_not_installed" in caught.value.problem
    assert install_command("build") in caught.value.fix


def test_a_mistake_in_edgekit_is_not_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_needed("edgekit.no_such_module", "build")


def test_other_errors_of_an_import_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_inside.py").write_text("raise OSError('libfoo.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match="libfoo"):
        import_needed("broken_inside", "build")


def refused(call: Callable[[], object], **more: Any) -> None:
    with LibraryErrors(lambda raised: CompileError(f"refused: {raised}"), **more):
        call()


def test_a_library_s_exception_becomes_an_error_of_edgekit() -> None:
    with pytest.raises(CompileError, match="refused: Expecting value") as caught:
        refused(lambda: json.loads(""))
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)


@pytest.mark.parametrize(
    ("text", "error"), [("", CompileError), ("[1]", CompileError), ("1", KeyError), ("{}", AttributeError)]
)
def test_a_replacement_answers_for_its_own_code_only(
    text: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a function that takes the place of the library's: what it leaves to the library fails, or it does itself."""
    code = (
        "def bug(): {}['gone']\n"
        "def replacement(text, own):\n"
        "    value = own(text)\n"
        "    if isinstance(value, list): own(value)\n"
        "    if isinstance(value, dict): return value.gone\n"
        "    return bug()\n"
    )
    names: dict[str, Any] = {"__name__": "edgekit.compat.some"}
    exec(code, names)
    replacement = replaces_library(names["replacement"])
    with pytest.raises(error):
        refused(lambda: replacement(text, json.loads))


def test_errors_that_pass_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.support.libraries.UNINFORMATIVE", None)
    with pytest.raises(AttributeError):
        refused(lambda: json.loads("1", parse_int=lambda _: first_line(ValueError("x"))))
    with pytest.raises(OSError, match="gone"):
        refused(lambda: Path("gone").read_text(), passing=(OSError,))
    with pytest.raises(MissingExtraError):
        refused(lambda: import_needed("surely_not_installed", "build"))
    with pytest.raises(KeyboardInterrupt):
        refused(lambda: signal.raise_signal(signal.SIGINT))


def test_blocks_that_overlap_in_threads_leave_the_process_as_it_was() -> None:
    out, err = streams("""
from threading import Event, Thread

entered, left = Event(), Event()

def other():
    with quiet():
        entered.set()
        left.wait()
        everything("still inside")

thread = Thread(target=other)
with quiet():
    thread.start()
    entered.wait()
left.set()
thread.join()
everything("after")
""")
    assert sorted(out) == ["C stdout after", "print after"]
    assert [line for line in err if "after" in line][:3] == ["stderr after", "C stderr after", "log after"]
    assert any("warning after" in line for line in err)
    assert not any("inside" in line for line in err)
