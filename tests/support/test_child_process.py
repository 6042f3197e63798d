"""Child processes import their parent's packages, and nothing from the current folder."""

import os
from pathlib import Path

import pytest

import edgekit
from edgekit.devices.doctor import _import_failure
from edgekit.measure.executors import executor_of
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.support.child_process import SAFE_PATH, child_environment, run_python, start_python
from tests.helpers.tiny import MakeBundle


@pytest.fixture
def hostile_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files that would replace modules of the standard library and of edgekit."""
    folder = tmp_path / "hostile"
    (folder / "edgekit").mkdir(parents=True)
    for name in ("json.py", "struct.py", "numpy.py", "edgekit/__init__.py"):
        (folder / name).write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(folder)
    return folder


IMPORTS = "import json, struct, numpy, edgekit; print(edgekit.__file__)"


def test_a_child_has_its_parents_packages(hostile_folder: Path) -> None:
    done = run_python(["-c", IMPORTS], timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, edgekit.__file__)
    with start_python(["-c", IMPORTS]) as child:
        out, _ = child.communicate()
    assert (child.returncode, out.decode().strip()) == (0, edgekit.__file__)


def test_start_python_adds_variables() -> None:
    with start_python(
        ["-c", "import os; print(os.environ['COLOUR'], 'PATH' in os.environ)"], {"COLOUR": "red"}
    ) as child:
        out, _ = child.communicate()
    assert out.split() == [b"red", b"True"]


def test_worker_processes_have_their_parents_packages(hostile_folder: Path) -> None:
    with executor_of(1, None) as executor:
        assert list(executor.map(len, ["abc"])) == [3]


@pytest.mark.parametrize("before", [None, "", "1"])
def test_child_environment_is_restored(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SAFE_PATH, raising=False)
    if before is not None:
        monkeypatch.setenv(SAFE_PATH, before)
    with child_environment():
        assert os.environ[SAFE_PATH] == "1"
    assert os.environ.get(SAFE_PATH) == before


def test_litert_s_profiler_runs_in_any_folder(make_bundle: MakeBundle, hostile_folder: Path) -> None:
    report = profile_bundle(read_bundle(make_bundle("tflite")), threads=1, runs=1)
    assert report.method.startswith("LiteRT's profiler")


def test_doctor_tries_the_installed_package(hostile_folder: Path) -> None:
    assert _import_failure("numpy") is None


def test_every_child_is_started_in_one_place() -> None:
    """A child that another file starts with sys.executable would lack -P: use edgekit.support.child_process."""
    package = Path(edgekit.__file__).parent
    users = [path for path in package.rglob("*.py") if "sys.executable" in path.read_text("utf-8")]
    # These run only on a device, in a bare Python 3.7.
    on_a_device = {path for path in users if "scripts" in path.parts or path.name == "probe.py"}
    # libraries.py prints the path in a command, and starts nothing.
    assert {path.name for path in users if path not in on_a_device} == {"child_process.py", "libraries.py"}
