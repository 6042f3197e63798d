"""The sdist, the wheel that is built from it, and edgekit where only the wheel is installed."""

import json
import re
import shutil
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import edgekit
from edgekit import __version__
from edgekit.config.recipes import list_recipes
from edgekit.config.runtimes import RUNTIMES, DeviceClass
from edgekit.support import libraries
from tests.helpers.environments import PIP, ROOT, install_as_printed, new_environment, run

EXTRAS = {
    *(runtime.extra for runtime in RUNTIMES.values()),
    "cli",
    "build",
    "scale",
    "trust",
    "open-clip",
    "transformers",
    "onnx-models",
    "parquet",
    "web",
    "docs",
    "dev",
}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_string(archive.read(f"edgekit_deploy-{__version__}.dist-info/METADATA").decode())


def files_of(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = {path.relative_to(ROOT).as_posix() for path in found}
    assert names, f"{folder} is empty"
    return names


def test_the_sdist_holds_the_tests_and_the_documents(sdist: Path) -> None:
    assert sdist.name == f"edgekit_deploy-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    documents = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt", "mkdocs.yml"}
    assert documents | files_of(ROOT / "tests") | files_of(ROOT / "docs") <= names


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {f"edgekit/_data/{name}" for kind in ("targets", "calibration") for name in files_of(ROOT / kind)}
    assert {name for name in names if ".dist-info/" not in name} == files_of(ROOT / "edgekit") | data
    for name in ("py.typed", "report/report.html.j2", "_assets/imagenet_wnids.txt"):
        assert f"edgekit/{name}" in names
    for name in ("convnextv2_cifar10.safetensors", "calibration.zip", "evaluation.zip", "labels.txt"):
        assert f"edgekit/_assets/demo/{name}" in names
    assert f"edgekit_deploy-{__version__}.dist-info/licenses/LICENSE" in names
    assert wheel.stat().st_size <= 6_000_000
    assert wheel.name == f"edgekit_deploy-{__version__}-py3-none-any.whl"


def test_the_metadata_names_what_each_extra_brings(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    base = {re.split(r"[^\w-]", each)[0] for each in requirements if "extra ==" not in each}
    assert base == {"numpy", "pillow"}
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert metadata["Name"] == "edgekit-deploy"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"


def test_fragile_packages_have_upper_bounds(metadata: Message) -> None:
    requirements = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" in each]
    for package in ("torch", "torchvision", "torchao", "nncf", "litert-torch", "openvino"):
        found = [each.partition(";")[0] for each in requirements if re.match(rf"{package}[<>=]", each)]
        assert found
        assert all("<" in each for each in found)


def test_the_constraints_are_exact_and_fit_every_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # no local versions, links or paths
    assert {"torch", "nncf", "openvino", "onnxruntime", "ai-edge-litert"} <= {pin.split("==")[0] for pin in pins}


SDK = """
import json, sys
import edgekit, edgekit.runtime
from edgekit.config import recipes, runtimes

imported = sorted(sys.modules)
print(json.dumps({
    "file": edgekit.__file__,
    "exported": {name: str(getattr(edgekit, name)) for name in edgekit.__all__},
    "imported": imported,
    "classes": [runtimes.DeviceClass.load(name).name for name in runtimes.DeviceClass.listed()],
    "recipes": [recipes.Recipe.load(name).name for name in recipes.list_recipes()],
    "data": str(runtimes.data_folder("targets")),
}))
"""
HEAVY = {"torch", "timm", "nncf", "typer", "rich", "msgspec", "openvino", "onnx", "onnxruntime", "ai_edge_litert"}


@pytest.mark.slow
def test_the_sdk_works_with_numpy_and_pillow_alone(wheel: Path, tmp_path: Path) -> None:
    """Emulated boards run it on other versions of Python."""
    python = new_environment(tmp_path / "env", wheel, lent=["numpy", "pillow"])
    done = run(python, "-I", "-W", "error", "-c", SDK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["file"]).is_relative_to(tmp_path)
    assert Path(found["data"]).is_relative_to(tmp_path)
    assert found["exported"].keys() == set(edgekit.__all__)
    assert not HEAVY & set(found["imported"])
    assert found["classes"] == list(DeviceClass.listed())
    assert found["recipes"] == list(list_recipes())
    for command in ([python.with_name("edgekit")], [python, "-m", "edgekit"]):
        done = run(*command, "--help", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{wheel}[cli]" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_without_torch_names_the_extra_that_brings_it(cli_python: Path, tmp_path: Path) -> None:
    edgekit = cli_python.with_name("edgekit")
    assert run(edgekit, "--version", cwd=tmp_path).stdout == f"edgekit {__version__}\n"
    assert "deploy" in run(edgekit, "--help", cwd=tmp_path).stdout
    (tmp_path / "images").mkdir()
    done = run(edgekit, "deploy", "convnextv2_atto", "--data", "images", "--weights", "random", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "[build]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_in_a_message_works_as_printed(cli_python: Path, tmp_path: Path) -> None:
    """In a checkout that isn't installed, which is then an editable one. `cli_python` was installed so from a wheel."""
    checkout = copy_checkout(tmp_path / "a checkout")
    listed = run(*PIP, "--python", cli_python, "list", "--format=freeze", cwd=tmp_path).stdout.split()
    others = {line.partition("==")[0] for line in listed} - {libraries.NAME, "typer"}
    python = new_environment(tmp_path / "an environment", lent=sorted(others))
    for cwd in (checkout, tmp_path):
        install_as_printed(python, cwd)
        location = run(python, "-c", "import edgekit; print(edgekit.__file__)", cwd=tmp_path).stdout
        assert Path(location.strip()).is_relative_to(checkout)
        done = run(*PIP, "--python", python, "uninstall", "--yes", "--quiet", "typer", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def copy_checkout(folder: Path) -> Path:
    """What a checkout needs to be installed from."""
    ignored = shutil.ignore_patterns("__pycache__", "demo")
    for name in ("edgekit", "targets", "calibration"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder
