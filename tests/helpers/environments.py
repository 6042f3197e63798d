"""Builds distributions of this checkout, and clean environments to install them in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from tests.helpers.missing import missing

ROOT = Path(__file__).resolve().parents[2]
_PRINT_COMMAND = "from edgekit.support.libraries import install_command; print(install_command('cli'))"
# pip reads this as --no-compile: Python compiles only what is imported.
_PIP_OPTIONS = {"PIP_NO_COMPILE": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
PIP = [sys.executable, "-m", "pip"]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, so that it imports the installed edgekit."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | _PIP_OPTIONS
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build the sdist or wheel (`kind`) of a source tree in `folder`."""
    done = run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", folder, source, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


def new_environment(
    folder: Path, *requirements: str | Path, python: str = sys.executable, lent: Sequence[str] = ()
) -> Path:
    """Create a virtual environment with only these packages and their dependencies; return its Python.

    Links to the `lent` distributions of the tests' own environment replace what pip would need seconds to install.
    """
    executable = folder / "bin" / "python"
    made = run(python, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    assert made.returncode == 0, made.stdout + made.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in lent:
        files = distribution(name).files or ()
        tops = {path.parts[0] for path in files} - {"..", "__pycache__"}
        assert tops, f"{name} has no files"
        for top in tops:
            (packages / top).symlink_to(str(distribution(name).locate_file(top)))
    if requirements:
        done = run(*PIP, "--python", executable, "install", "--quiet", *requirements, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return executable


def install_as_printed(python: Path, cwd: Path) -> None:
    """Let a shell run the command by which a message of this environment's edgekit asks for the extra `cli`."""
    command = run(python, "-c", _PRINT_COMMAND, cwd=cwd).stdout.strip()
    before = run(python, "-m", "edgekit", "--help", cwd=cwd)
    assert (before.returncode, before.stdout) == (2, "")
    assert command in before.stderr
    done = run("sh", "-c", command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(python.with_name("edgekit"), "--help", cwd=cwd).returncode == 0


def find_python(version: str) -> str:
    """Find a Python of this version. Without one, skip the test, or fail in CI."""
    for name in (sys.executable, "/usr/bin/python3", f"python{version}"):
        path = shutil.which(name)
        if path is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        if run(path, "-I", "-c", code, cwd=ROOT).stdout.strip() == version:
            return path
    missing(f"needs Python {version}")
