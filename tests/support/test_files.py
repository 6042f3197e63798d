"""Files that an interruption leaves whole, and texts without folders."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

import edgekit
from edgekit.pipeline.request import ROOMS
from edgekit.support.files import (
    code_sha256,
    digest,
    file_sha256,
    replace_text,
    replacing,
    shareable_command,
    sources_sha256,
    without_folders,
    write_json,
)

NO_UTF8 = os.fsdecode(b"caf\xe9.png")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def fill(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "inside").write_text(content)


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a folder"])
def test_a_folder_is_replaced(before: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if before != "nothing":
        path.mkdir()
    if before == "a folder":
        (path / "old").touch()
    with replacing(path) as beside:
        fill(beside, "new")
        assert not (path / "inside").exists()
    assert names(tmp_path) == ["it"]
    assert names(path) == ["inside"]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_the_old_one_stays_if_the_block_raises(raised: type[BaseException], tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")

    def replace(path: Path) -> None:
        with replacing(path) as beside:
            fill(beside, "new") if path.is_dir() else beside.write_text("new")
            raise raised

    for path in (tmp_path / "folder", tmp_path / "file"):
        with pytest.raises(raised):
            replace(path)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "inside").read_text() == (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_one_stays_if_a_rename_fails(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rename moves the old folder away, and the second moves the new one into its place."""
    path, count, rename = tmp_path / "it", 0, Path.rename
    fill(path, "old")

    def refuse(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"), replacing(path) as beside:
        fill(beside, "new")
    assert names(tmp_path) == ["it"]
    assert (path / "inside").read_text() == "old"


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    with pytest.raises(OSError, match="directory"):
        replace_text(tmp_path / "folder", "new")
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "inside").read_text() == "old"


def test_leftovers_of_a_killed_process_are_replaced(tmp_path: Path) -> None:
    for left in ("tmp", "old"):
        fill(tmp_path / f".it.{left}-{os.getpid()}", "left")
    for content in ("first", "second"):
        with replacing(tmp_path / "it") as beside:
            fill(beside, content)
    assert (tmp_path / "it" / "inside").read_text() == "second"
    assert names(tmp_path) == ["it"]


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    replace_text(tmp_path / "file", "é\r\n")
    assert (tmp_path / "file").read_bytes() == "é\r\n".encode()


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("deploy", "deploy"),
        ("/home/me/secret/photos", "photos"),
        ("../secret/photos/", "photos"),
        ("~/secret/best.pth", "best.pth"),
        ("runs/secret/demo", "demo"),
        ("--data=/home/me/photos.zip", "--data=photos.zip"),
        ("-o/home/me/runs/demo", "-odemo"),
        ("checkpoint=/home/me/best.pth", "checkpoint=best.pth"),
        (r"C:\Users\me\photos", "photos"),
        (r"--weights=C:\Users\me\best.pth", "--weights=best.pth"),
        ("sqlite:////home/me/tune.db", "tune.db"),
        ("open_clip:ViT-B-32/laion2b", "open_clip:ViT-B-32/laion2b"),
        ("my.models:build", "my.models:build"),
        ("num_classes=10,patch_size=2", "num_classes=10,patch_size=2"),
        ("0.5,0.5,0.5", "0.5,0.5,0.5"),
        ("ssh://pi@raspberrypi.local", "ssh://pi@raspberrypi.local"),
        ("--device=ssh://pi@raspberrypi.local", "--device=ssh://pi@raspberrypi.local"),
        ("..", ".."),
        ("/", "/"),
        ("-o", "-o"),
        ("", ""),
    ],
)
def test_a_path_in_a_command_becomes_its_name(argument: str, shown: str) -> None:
    assert shareable_command(["deploy", argument]) == ("deploy", shown)


def test_folders_in_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"can't read 'photos/cat/1.png': [Errno 13] Permission denied: '{tmp_path}/photos/cat/1.png'"
    assert without_folders(text, [Path("photos")]) == (
        "can't read 'cat/1.png': [Errno 13] Permission denied: 'cat/1.png'"
    )


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
        "compiler/graph.py", "compiler/layouts.py", "compiler/calibrate.py", "compiler/ranges.py",
        "compiler/rounding.py", "config/recipes.py", "images/preprocess.py", "models/checkpoint.py",
        "pipeline/graphs.py", "pipeline/build.py", "runtime/bundle.py", "runtime/onnx/backend.py",
        "runtime/openvino/backend.py", "runtime/tflite/backend.py",
    ],
)  # fmt: skip
def test_files_that_affect_bundles_are_in_those_rooms(path: str) -> None:
    assert (PACKAGE / path).is_file()
    assert path.partition("/")[0] in ROOMS


def test_json_keeps_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "it.json", {"name": NO_UTF8})
    assert json.loads((tmp_path / "it.json").read_text("utf-8")) == {"name": NO_UTF8}


def test_texts_show_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    replace_text(tmp_path / "it.html", f"the image {NO_UTF8}")
    assert (tmp_path / "it.html").read_text("utf-8") == "the image caf?.png"
    assert shareable_command(["deploy", f"photos/{NO_UTF8}"]) == ("deploy", "caf\ufffd.png")
