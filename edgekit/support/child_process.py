"""Child processes that run Python code of edgekit.

A child imports the very packages that its parent has, and nothing from the folder that the user happens to be in: a
json.py there would replace the standard library's. What a child's libraries print goes to the parent's `library_log`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgekit.support import library_log

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

SAFE_PATH = "PYTHONSAFEPATH"
"""The environment variable that acts as the option -P does, for children whose command line is not ours."""


def run_python(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end, both streams captured as text.

    Raises subprocess.TimeoutExpired after `timeout` seconds; an exit status other than 0 raises nothing. Its stderr is
    noted in the `library_log` too.
    """
    said: str | bytes | None = None
    end = "it took too long"
    try:
        done = subprocess.run(
            _command(arguments), capture_output=True, text=True, timeout=timeout, check=False, env=_environment()
        )
        said, end = done.stderr, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        said = error.stderr
        raise
    finally:
        text = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
        library_log.note(f"python {shlex.join(arguments)}: {end}", text)
    return done


def start_python(
    arguments: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.Popen[str]":
    """Start Python with these arguments and more environment variables, stdin and stdout being pipes of text."""
    return subprocess.Popen(
        _command(arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment() | dict(variables),
    )


def spawn(target: Callable[..., object], arguments: Sequence[Any]) -> "BaseProcess":
    """Start a fresh process that calls `target`: a forked one would share threads and connections with this one."""
    import multiprocessing  # the device's agent has no use for it

    process = multiprocessing.get_context("spawn").Process(target=target, args=tuple(arguments))
    with child_environment():
        process.start()
    return process


@contextmanager
def child_environment() -> Iterator[None]:
    """Let every Python that any library starts inside the block be a child as those that this module starts."""
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
