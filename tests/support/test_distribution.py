"""edgekit's distribution, versions, and the commands that add packages."""

import json
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from edgekit.devices.scripts import environment
from edgekit.support import libraries
from edgekit.support.libraries import NAME, install_command, pip_install, release

INSTALLED = "site-packages/edgekit/support/libraries.py"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder with the metadata of edgekit, from which edgekit seems to have been imported."""
    folder = tmp_path / "site-packages"
    metadata = folder / "edgekit_deploy-0.1.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.0\n")
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / INSTALLED))
    monkeypatch.syspath_prepend(folder)
    return folder


def record(site: Path, source: Path) -> None:
    """Write what pip records about the file or folder that it installed edgekit from."""
    (site / "edgekit_deploy-0.1.0.dist-info/direct_url.json").write_text(json.dumps({"url": source.as_uri()}))


def make_checkout(folder: Path, name: str = NAME) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder


def requirement(command: str) -> str:
    """What a command installs."""
    return shlex.split(command)[-1]


def test_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is installed as editable, or only on sys.path and without any metadata."""
    checkout = make_checkout(tmp_path / "my 'own' checkout")
    monkeypatch.setattr(libraries, "__file__", str(checkout / "edgekit/support/libraries.py"))
    assert shlex.split(install_command("cli"))[-2:] == ["--editable", f"{checkout}[cli]"]


def test_from_a_wheel(site: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "the wheels" / "edgekit_deploy-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    record(site, wheel)
    assert requirement(install_command("build")) == f"{wheel}[build]"
    wheel.unlink()
    assert requirement(install_command("build")) == "edgekit-deploy[build]"


def test_from_a_folder(site: Path, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    record(site, checkout)
    assert requirement(install_command("build")) == f"{checkout}[build]"
    assert "--editable" not in install_command("build")
    (checkout / "pyproject.toml").unlink()
    assert requirement(install_command("build")) == "edgekit-deploy[build]"


@pytest.mark.parametrize(
    "text", ['{"url": "https://example.org/edgekit_deploy-0.1.0-py3-none-any.whl"}', "{}", "", "no JSON"]
)
def test_from_an_index_or_another_machine(site: Path, text: str) -> None:
    (site / "edgekit_deploy-0.1.0.dist-info/direct_url.json").write_text(text)
    assert requirement(install_command("tflite")) == "edgekit-deploy[tflite]"


def test_without_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package alone, as an app may bundle it."""
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / INSTALLED))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert requirement(install_command("tflite")) == "edgekit-deploy[tflite]"


def test_the_pyproject_of_another_project_is_not_a_checkout(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "pyproject.toml").write_text('[project]\nname = "stray"\n')
    assert requirement(install_command("cli")) == "edgekit-deploy[cli]"


def test_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has no pip: to be complete again, it has to be set up again."""
    place = tmp_path / "an environment"
    place.mkdir()
    monkeypatch.setattr(sys, "prefix", str(place))
    (place / environment.COMPLETE).touch()
    assert shlex.split(install_command("tflite"), comments=True) == ["rm", "-r", str(place)]


@pytest.mark.parametrize(
    ("has_pip", "on_path", "start"),
    [
        (True, {"pip": "SCRIPTS/pip"}, "pip install"),
        (True, {"pip": "/usr/bin/pip", "uv": "/usr/bin/uv"}, "PYTHON -m pip install"),
        (True, {}, "PYTHON -m pip install"),
        (False, {"pip": "/usr/bin/pip", "uv": "/usr/bin/uv"}, "uv pip install --python PYTHON"),
        (False, {"pip": "/usr/bin/pip"}, "pip --python PYTHON install"),
        (False, {}, "PYTHON -m pip install"),
    ],
)
def test_the_command_acts_on_the_running_environment(
    has_pip: bool, on_path: dict[str, str], start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = "/home/me/my env/bin/python"
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if has_pip:
        metadata = tmp_path / "pip-26.0.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: pip\nVersion: 26.0\n")
    found = {name: path.replace("SCRIPTS", scripts) for name, path in on_path.items()}
    monkeypatch.setattr(shutil, "which", found.get)
    expected = start.replace("PYTHON", shlex.quote(python))
    assert pip_install("numpy<2") == f"{expected} 'numpy<2'"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.13.5", (3, 13)),
        ("2.36", (2, 36)),
        ("3", (3, 0)),
        ("2026.4.0-20112-abc", (2026, 4)),
        ("1.0rc1", (1, 0)),
        ("2.13.0+cpu", (2, 13)),
        ("unknown", ()),
        ("", ()),
    ],
)
def test_two_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert release(version, parts=2) == expected


def test_order() -> None:
    assert release("1.9.3") < release("1.10") < release("1.10.1") < release("2")
    assert release("2026.4") == release("2026.4.0") == release("2026.4.0.0.0")
