"""The distribution's name, and shell commands that add packages to the environment that is running.

On the public package index `edgekit` is an unrelated project, and edgekit's own distribution isn't there yet. A command
therefore names edgekit by the checkout or wheel that it was installed from.
"""

import json
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
