"""edgekit's distribution, versions of installed ones, and shell commands that add packages to this environment.

On the public package index `edgekit` is an unrelated project, and edgekit's own distribution isn't there yet. A command
therefore names edgekit by the checkout or wheel that it was installed from.
"""

import json
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
