"""Other distributions: imported when they are needed, silenced while they work, and their errors translated.

Commands that add one to this environment name edgekit by the checkout or wheel that it was installed from: on the
public package index `edgekit` is an unrelated project, and edgekit's own distribution isn't there yet.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.support import child_process
from edgekit.support.files import code_sha256

NAME = "edgekit-deploy"
"""The distribution's name, as [project] in pyproject.toml declares it."""
DEVICE_ENVIRONMENT_MARKER = "edgekit-complete"
"""A file in each environment that edgekit sets up on a device; devices/scripts/environment.py writes it."""


def install_command(extra: str) -> str:
    """A shell command that adds an extra to the running environment; it works as printed.

    An environment on a device has no pip and is never changed after its set-up. There the command removes it, and
    edgekit sets up a new one when it next measures on the device.
    """
    if Path(sys.prefix, DEVICE_ENVIRONMENT_MARKER).exists():
        return f"rm -r {shlex.quote(sys.prefix)}  # on the device: the next measurement sets it up again"
    checkout = Path(__file__).resolve().parents[2]
    if _is_checkout(checkout):
        return pip_install("--editable", f"{checkout}[{extra}]")
    # By its bare name, pip keeps the installed distribution and adds only the extra's requirements.
    return pip_install(f"{_install_source() or NAME}[{extra}]")


def pip_install(*requirements: str) -> str:
    """A shell command that installs into the running environment, whichever environment the shell has activated."""
    return pip_command("install", *requirements)


def pip_command(subcommand: str, *arguments: str) -> str:
    """The shortest pip command that is sure to act on the running environment."""
    return f"{_pip(subcommand)} {shlex.join(arguments)}"


def _pip(subcommand: str) -> str:
    python, pip = shlex.quote(sys.executable), shutil.which("pip")
    if pip and Path(pip).parent == Path(sysconfig.get_path("scripts")):
        return f"pip {subcommand}"
    if not _has_pip() and shutil.which("uv"):
        return f"uv pip {subcommand} --python {python}"
    if not _has_pip() and pip:
        return f"pip --python {python} {subcommand}"
    return f"{python} -m pip {subcommand}"


def _has_pip() -> bool:
    """Whether pip is installed in this environment. Looking for the module would set off a hook of setuptools."""
    from importlib.metadata import distributions

    return any(distributions(name="pip"))


def _is_checkout(folder: Path) -> bool:
    """Whether the folder is a source tree of edgekit: some distributions install a stray pyproject.toml."""
    try:
        return f'name = "{NAME}"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _install_source() -> Path | None:
    """The checkout or wheel that edgekit was installed from, if it still exists (PEP 610)."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import

    try:
        record = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    url = urlsplit(str(record.get("url", "")))
    path = Path(unquote(url.path))
    return path if url.scheme == "file" and (path.is_file() or _is_checkout(path)) else None


def release(version: str, parts: int = 5) -> tuple[int, ...]:
    """The first `parts` numbers of a version, padded with zeros: (3, 13) of "3.13.5rc1" for 2 parts.

    Pre-releases count as the release that they lead to. The tuple is empty if the version doesn't start with a number.
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        return ()
    release = [int(part) for part in numbers.group().split(".")]
    return tuple((release + [0] * parts)[:parts])


@cache
def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None. It stays the same while the process runs."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def versions_of(distributions: Iterable[str], rooms: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and the distributions that are installed, and the hash of edgekit's code in `rooms`."""
    installed = {name: version for name in distributions if (version := installed_version(name)) is not None}
    return {"edgekit-sources": code_sha256(rooms), "python": platform.python_version(), **installed}


F = TypeVar("F", bound=Callable[..., Any])
_replacements: set[CodeType] = set()
UNINFORMATIVE = re.compile(
    r"Exception from \S+:\d+:$|Check '.*' failed at |FrontEnd API failed with \w+:$|Model wasn't fully converted\.$|"
    r"Summary:$"
)
"""Lines with which OpenVINO's messages begin."""


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wraps import statements: a missing package raises MissingExtraError, and the libraries' output is silenced.

    Python doesn't look for garbage meanwhile. That took a quarter of the time of importing torch and the compilers.
    """
    try:
        with quiet(), _without_collection():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or "edgekit").partition(".")[0]
        if package == "edgekit":
            raise
        raise MissingExtraError(f"'{package}' is not installed", fix=f"Run: {install_command(extra)}") from error


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_needed(module: str, extra: str) -> ModuleType:
    """Import the module with this name; MissingExtraError if a package that it imports is missing."""
    with needs(extra):
        return importlib.import_module(module)


def replaces_library(function: F) -> F:
    """Mark a function that takes the place of a library's own, and leaves to that what it can't do itself.

    An error that it gets from the library is the library's for `LibraryErrors`, although it came through edgekit.
    """
    _replacements.add(cast(FunctionType, function).__code__)
    return function


class LibraryErrors:
    """Turns exceptions of a third-party library inside the block into errors of edgekit.

    The block should contain nothing but direct calls of the library. If the library calls edgekit back and that code
    raises, the mistake is ours, so the exception passes unchanged, like EdgekitErrors and the types in `passing`.
    """

    def __init__(
        self, error_of: Callable[[Exception], EdgekitError], passing: tuple[type[Exception], ...] = ()
    ) -> None:
        self._error_of = error_of
        self._passing: tuple[type[Exception], ...] = (EdgekitError, *passing)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(raised, Exception) and not isinstance(raised, self._passing) and not _is_ours(trace):
            raise self._error_of(raised) from raised


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an exception came through edgekit's own code.

    The first frame, which is the block's, doesn't count. Neither does a frame that `replaces_library`, unless the
    exception was raised there.
    """
    trace = trace.tb_next if trace else None
    while trace is not None:
        own = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "edgekit"
        if own and (trace.tb_next is None or trace.tb_frame.f_code not in _replacements):
            return True
        trace = trace.tb_next
    return False


class OfProcess:
    """A change of what the whole process has, which overlapping blocks of several threads share.

    The first block makes the change, and the last one to end takes it back.
    """

    def __init__(self, change: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._change, self._lock, self._blocks = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._made = self._change()
                self._made.__enter__()
            self._blocks += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._made.__exit__(None, None, None)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    _flush()
    before = logging.root.manager.disable
    streams = os.dup(1), os.dup(2)
    elsewhere = child_process.descriptor()
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Don't replace sys.stdout and sys.stderr: loggers that libraries set up meanwhile keep a reference to them.
            os.dup2(elsewhere, 1)
            os.dup2(elsewhere, 2)
            yield
    finally:
        _flush()
        for number, descriptor in enumerate(streams, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(elsewhere)
        logging.disable(before)


class _Silenced(OfProcess):
    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")  # whatever filters were set since the first block began


_silenced = _Silenced(_silence)


def quiet() -> OfProcess:
    """Silence libraries on both streams: their warnings, log lines, progress bars and the output of their C++ code.

    edgekit's own progress uses a separate descriptor. While a run folder is open, the libraries' output goes to its
    `library_log`; otherwise it is discarded. Blocks may be nested, and overlap in several threads.
    """
    return _silenced


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # full disk or closed pipe: the next write reports it
            stream.flush()


def first_line(error: Exception) -> str:
    """The first informative line of a message. OpenVINO's start with locations in its source, and with headings."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines()]
    informative = [line for line in lines if line and not UNINFORMATIVE.match(line)]
    return informative[0] if informative else type(error).__name__


SLEEPING = ("OMP_WAIT_POLICY", "PASSIVE")
"""The variable that lets them sleep. By default they keep their cores busy, and if other work needs one of these cores,
each operation waits until that work pauses: a network on two threads took eight times as long beside it."""


def let_threads_sleep() -> None:
    """Let threads that wait leave their cores to others, unless the user decided; too late once torch is imported."""
    if "torch" not in sys.modules:
        os.environ.setdefault(*SLEEPING)
