"""Builds distributions of this checkout, and clean environments to install them in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, so that it imports the installed edgekit."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build the sdist or wheel (`kind`) of a source tree in `folder`."""
    done = run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", folder, source, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


def new_environment(
    folder: Path, *requirements: str | Path, python: str = sys.executable, with_pip: bool = False
) -> Path:
    """Create a virtual environment with only these packages and their dependencies; return its Python."""
    executable = folder / "bin" / "python"
    made = run(python, "-m", "venv", *([] if with_pip else ["--without-pip"]), folder, cwd=folder.parent)
    assert made.returncode == 0, made.stdout + made.stderr
    done = run(*PIP, "--python", executable, "install", "--quiet", *requirements, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return executable


def find_python(version: str) -> str:
    """Find a Python of this version. Without one, skip the test, or fail in CI."""
    for name in (sys.executable, "/usr/bin/python3", f"python{version}"):
        path = shutil.which(name)
        if path is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        if run(path, "-I", "-c", code, cwd=ROOT).stdout.strip() == version:
            return path
    reason = f"needs Python {version}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
