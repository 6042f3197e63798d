"""The hash of edgekit's own code changes with the code that affects bundles, and with nothing else."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
from torch import nn

import edgekit
from edgekit.pipeline.sources import ROOMS, edgekit_sha256, module_sha256, sources_sha256

PACKAGE = Path(edgekit.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package in another folder."""
    return shutil.copytree(PACKAGE, tmp_path / "elsewhere" / "edgekit", ignore=shutil.ignore_patterns("_assets"))


def test_the_location_of_the_package_does_not_matter(copy: Path) -> None:
    assert sources_sha256(copy) == edgekit_sha256()


@pytest.mark.parametrize("room", ROOMS)
def test_a_change_in_a_room_that_affects_bundles_changes_it(copy: Path, room: str) -> None:
    before = sources_sha256(copy)
    file = max((copy / room).rglob("*.py"), key=lambda path: len(path.parts))
    file.write_bytes(file.read_bytes() + b"\n")
    assert sources_sha256(copy) != before


def test_other_files_do_not_matter(copy: Path) -> None:
    before = sources_sha256(copy)
    for room in ("cli", "report", "devices"):
        (copy / room / "new.py").write_text("")
    (copy / "compiler" / "notes.txt").write_text("")
    (copy / "compiler" / "__pycache__").mkdir(exist_ok=True)
    (copy / "compiler" / "__pycache__" / "graph.cpython-311.pyc").write_bytes(b"\0")
    assert sources_sha256(copy) == before


def test_adding_removing_and_renaming_files_changes_it(copy: Path) -> None:
    hashes = [sources_sha256(copy)]
    (copy / "compiler" / "new.py").write_text("")
    hashes.append(sources_sha256(copy))
    (copy / "compiler" / "new.py").rename(copy / "compiler" / "newer.py")
    hashes.append(sources_sha256(copy))
    (copy / "compiler" / "graph.py").unlink()
    hashes.append(sources_sha256(copy))
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    "path",
    [
        "compiler/graph.py", "compiler/rewrites/layout.py", "compiler/quantize/calibrate.py",
        "compiler/quantize/equalize.py", "compiler/quantize/ranges.py", "compiler/quantize/gptq.py",
        "config/recipes.py", "images/preprocess.py", "models/checkpoint.py", "pipeline/calibrate.py",
        "pipeline/compile.py", "runtime/bundle.py", "runtime/manifest.py", "runtime/onnx/backend.py",
        "runtime/onnx/fusion.py", "runtime/openvino/axes.py", "runtime/tflite/backend.py",
    ],
)  # fmt: skip
def test_files_that_affect_bundles_are_in_those_rooms(path: str) -> None:
    assert (PACKAGE / path).is_file()
    assert path.partition("/")[0] in ROOMS


NETWORK = """
from torch import nn

class Network(nn.Module):
    def forward(self, x):
        return x * {factor}
"""


def test_the_code_of_a_users_network_changes_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for folder, factor in (("a", 1), ("b", 2), ("c", 1)):
        place = tmp_path / folder
        place.mkdir()
        (place / "users_network.py").write_text(NETWORK.format(factor=factor))
        with monkeypatch.context() as patch:
            patch.syspath_prepend(place)
            network = import_module("users_network").Network()
            hashes.append(module_sha256(nn.Sequential(network)))
        del sys.modules["users_network"]
    assert hashes[0] == hashes[2] != hashes[1]


def test_networks_of_packages_are_identified_by_versions_instead() -> None:
    assert module_sha256(nn.Linear(2, 2)) == module_sha256(nn.Sequential(nn.ReLU()))
