"""Child processes that run Python code of edgekit.

A child imports the very packages that its parent has, and nothing from the folder that the user happens to be in: a
json.py there would replace the standard library's.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

SAFE_PATH = "PYTHONSAFEPATH"
"""The environment variable that acts as the option -P does, for children whose command line is not ours."""


def run_python(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end, both streams captured as text.

    Raises subprocess.TimeoutExpired after `timeout` seconds; an exit status other than 0 raises nothing.
    """
    return subprocess.run(
        _command(arguments), capture_output=True, text=True, timeout=timeout, check=False, env=_environment()
    )


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
    with safe_path():
        process.start()
    return process


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the current folder off the import path of every Python that is started inside the block."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
