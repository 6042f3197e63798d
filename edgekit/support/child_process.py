"""Child processes that run Python code of edgekit.

A child imports the same packages as its parent, and nothing from the current folder, where a json.py would replace the
standard library's. The output of a child's libraries goes to the parent's `library_log`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from edgekit.support import library_log

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable with the effect of Python's option -P, for children that libraries start."""


def run_python(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments until it exits, and capture both streams as text.

    Raises subprocess.TimeoutExpired after `timeout` seconds, and nothing for an exit status other than 0. Its stderr is
    also appended to the `library_log`.
    """
    stderr: str | bytes | None = None
    end = "timed out"
    try:
        done = subprocess.run(
            _command(arguments), capture_output=True, text=True, timeout=timeout, check=False, env=_environment()
        )
        stderr, end = done.stderr, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        stderr = error.stderr
        raise
    finally:
        text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr or ""
        library_log.note(f"python {shlex.join(arguments)}: {end}", text)
    return done


def start_python(
    arguments: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.Popen[str]":
    """Start Python with these arguments and additional environment variables. stdin and stdout are text pipes."""
    return subprocess.Popen(
        _command(arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment() | dict(variables),
    )


@contextmanager
def child_environment() -> Iterator[None]:
    """Give every Python that a library starts inside the block the environment that this module gives its children."""
    wanted = {SAFE_PATH: "1", **library_log.environment()}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | library_log.environment()
