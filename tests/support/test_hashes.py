"""Hashes of files, of values and of edgekit's own code."""

import hashlib
import shutil
from pathlib import Path

import pytest

import edgekit
from edgekit.pipeline.request import ROOMS
from edgekit.support.hashes import code_sha256, digest, file_sha256, sources_sha256


def test_the_order_of_keys_makes_no_difference() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest((1, "é"), None) == digest([1, "é"], None)


def test_everything_else_does() -> None:
    values = [(), (1,), ("1",), (1, 2), ([1, 2],), (2, 1), (None,), ({"a": 1},), ({"a": 2},), ([1], [2]), ([1, 2], [])]
    assert len({digest(*parts) for parts in values}) == len(values)


def test_values_without_a_stable_text_are_refused() -> None:
    with pytest.raises(TypeError):
        digest("name", object())


def test_files(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


PACKAGE = Path(edgekit.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package in another folder."""
    return shutil.copytree(PACKAGE, tmp_path / "elsewhere" / "edgekit", ignore=shutil.ignore_patterns("_assets"))


def test_the_location_of_the_package_does_not_matter(copy: Path) -> None:
    assert sources_sha256(copy, ROOMS) == code_sha256(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_change_in_a_room_that_affects_bundles_changes_it(copy: Path, room: str) -> None:
    before = sources_sha256(copy, ROOMS)
    file = max((copy / room).rglob("*.py"), key=lambda path: len(path.parts))
    file.write_bytes(file.read_bytes() + b"\n")
    assert sources_sha256(copy, ROOMS) != before


def test_other_files_do_not_matter(copy: Path) -> None:
    before = sources_sha256(copy, ROOMS)
    for room in ("cli", "report", "devices"):
        (copy / room / "new.py").write_text("")
    (copy / "compiler" / "notes.txt").write_text("")
    (copy / "compiler" / "__pycache__").mkdir(exist_ok=True)
    (copy / "compiler" / "__pycache__" / "graph.cpython-311.pyc").write_bytes(b"\0")
    assert sources_sha256(copy, ROOMS) == before


def test_adding_removing_and_renaming_files_changes_it(copy: Path) -> None:
    hashes = [sources_sha256(copy, ROOMS)]
    (copy / "compiler" / "new.py").write_text("")
    hashes.append(sources_sha256(copy, ROOMS))
    (copy / "compiler" / "new.py").rename(copy / "compiler" / "newer.py")
    hashes.append(sources_sha256(copy, ROOMS))
    (copy / "compiler" / "graph.py").unlink()
    hashes.append(sources_sha256(copy, ROOMS))
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    "path",
    [
        "compiler/graph.py", "compiler/rewrites/layout.py", "compiler/quantize/calibrate.py",
        "compiler/quantize/equalize.py", "compiler/quantize/mse_ranges.py", "compiler/quantize/gptq.py",
        "config/recipes.py", "images/preprocess.py", "models/checkpoint.py", "pipeline/quantize.py",
        "pipeline/compile.py", "runtime/bundle.py", "runtime/manifest.py", "runtime/onnx/backend.py",
        "runtime/openvino/backend.py", "runtime/tflite/backend.py",
    ],
)  # fmt: skip
def test_files_that_affect_bundles_are_in_those_rooms(path: str) -> None:
    assert (PACKAGE / path).is_file()
    assert path.partition("/")[0] in ROOMS
