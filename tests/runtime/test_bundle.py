"""Bundles are written completely or not at all, and every part is checked when they are read."""

import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from edgekit.errors import BundleError, OutputError
from edgekit.runtime.bundle import (
    MANIFEST,
    MAX_GOLDEN_BYTES,
    MAX_TEXT_BYTES,
    Bundle,
    Golden,
    Manifest,
    read_bundle,
    write_bundle,
)
from tests.helpers.refusals import refuses
from tests.helpers.tiny import CLASSES, SIDE, tiny_labels, tiny_manifest

MODEL = b"pretend model" * 20


def golden(count: int = 2) -> Golden:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return Golden(pixels, rng.random((count, CLASSES), np.float32), 0.05)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "source.onnx"
    path.write_bytes(MODEL)
    return path


def write(folder: Path, model: Path, manifest: Manifest | None = None, **changes: Any) -> Bundle:
    arguments: dict[str, Any] = {"labels": tiny_labels(), "golden": golden(), **changes}
    return write_bundle(folder, {"model.onnx": model}, manifest or tiny_manifest(), **arguments)


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    return write(tmp_path / "out/bundle", model).path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest as a stranger could, without invalidating the hashes of other files."""
    values = json.loads((folder / MANIFEST).read_text())
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file together with its hash and size."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    rewrite(folder, lambda values: values["files"].update({name: entry}))


def test_round_trip(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.labels == tuple(tiny_labels())
    assert bundle.manifest.layers == tiny_manifest().layers
    assert bundle.size_bytes == len(MODEL)
    assert bundle.model_path.read_bytes() == MODEL
    assert sorted(path.name for path in folder.iterdir()) == ["golden.npz", "labels.txt", MANIFEST, "model.onnx"]
    assert Manifest.from_dict(bundle.manifest.to_dict()) == bundle.manifest
    assert next(iter(bundle.manifest.to_dict())) == "schema_version"
    read = bundle.golden()
    np.testing.assert_array_equal(read.pixels, golden().pixels)
    np.testing.assert_array_equal(read.logits, golden().logits)
    assert read.tolerance == 0.05


def test_the_same_input_gives_the_same_bytes(folder: Path, model: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", model).path
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


# Reading a bundle from a stranger


def test_a_path_that_is_not_a_bundle_is_refused(tmp_path: Path) -> None:
    with refuses(BundleError, tmp_path / "nothing"):
        read_bundle(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with refuses(BundleError, tmp_path / "file"):
        read_bundle(tmp_path / "file")
    with refuses(BundleError, MANIFEST, "edgekit deploy"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("key", sorted(tiny_manifest().to_dict().keys() - {"pairs_that_can_saturate"}))
def test_every_key_is_required(folder: Path, key: str) -> None:
    rewrite(folder, lambda values: values.pop(key))
    with pytest.raises(BundleError, match=f"'{key}'"):
        read_bundle(folder)


WRONG: dict[str, list[Any]] = {
    "schema_version": [3, 0, "1", True, None, 1.0],
    "target": ["tensorrt", 1, None],
    "precision": ["int4", None],
    "scheme": [1, ["x"], "\x1b[2J"],
    "model_file": ["../model.onnx", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".hidden", "model.onnx\0", "C:x", 1],
    "labels_file": ["../labels.txt", "model.onnx", MANIFEST, "Manifest.JSON", "absent.txt", None],
    "golden_file": ["model.onnx", "a/golden.npz", {}],
    "input_shape": [
        [1, 3, 32],
        [1, 3, 32, 31],
        [2, 3, 32, 32],
        [1, 3, 10**9, 32],
        [1, 3, 0, 32],
        [1, 3, 32.0, 32],
        [1, 32, 32, 3],
        "x",
    ],
    "layout": ["NHCW", "NHWC", None],
    "dtype": ["float64", "object", None],
    "input_name": [3],
    "output_name": [None],
    "classes": [0, -1, 10**12, 10.0, "10", True, 11],
    "task": ["", "Multi label", "a/b", 1, None],
    "activation": ["relu", "", 1, None],
    "thresholds": ["0.5", 0.5, [0.5] * 9 + ["x"], [0.5] * 9 + [1.1], [0.5] * 9 + [True], [0.5] * CLASSES],
    "preprocessing": [None, {}, []],
    "engine": [
        {},
        {"package": "onnxruntime"},
        {"package": "x; rm -rf", "minimum": "1"},
        {"package": "x", "minimum": "$(ls)"},
    ],
    "device_class": [None],
    "fingerprint": [0],
    "session": [[], None],
    "threads": [0, 1.0, True, "all"],
    "provenance": [[], "x"],
    "layers": [
        {},
        [{}],
        [{"name": "a", "op": "b", "macs": -1, "int8": True}],
        [{"name": "a", "op": "b", "macs": 1, "int8": 1}],
    ],
    "files": [[], {}, {"model.onnx": {}}, {"../x": {"sha256": "0" * 64, "size_bytes": 1}}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_names_its_key(folder: Path, key: str, value: object) -> None:
    rewrite(folder, lambda values: values.update({key: value}))
    with refuses(BundleError, "labels.txt" if value == 11 else key):
        read_bundle(folder)


@pytest.mark.parametrize("count", [0, 9])
def test_thresholds_are_one_per_class(folder: Path, count: int) -> None:
    rewrite(folder, lambda values: values.update(activation="sigmoid", thresholds=[0.5] * count))
    with refuses(BundleError, "thresholds", f"{CLASSES} classes"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(extra=1), "'extra' is unknown"),
        (lambda values: values["engine"].update(url="x"), "'url' is unknown"),
        (lambda values: values["preprocessing"].update(std=[1, 1, 0]), "std is"),
        (lambda values: values["preprocessing"].update(width=31), "input_shape"),
        (lambda values: values.update(dtype="uint8"), "'layout' is 'NCHW'. Valid: NHWC, because dtype is uint8"),
        (lambda values: values["files"]["model.onnx"].update(sha256="0" * 63), r"files\.model\.onnx\.sha256"),
        (lambda values: values["files"]["model.onnx"].update(size_bytes=-1), r"files\.model\.onnx\.size_bytes"),
        (
            lambda values: values["files"]["model.onnx"].update(size_bytes=10**15),
            "260 bytes, but the manifest says 10000",
        ),
        (lambda values: values["files"]["model.onnx"].update(sha256="0" * 64), r"model\.onnx' was changed"),
        (lambda values: values["provenance"].update(model="\x1b]0;title"), "control character"),
        (lambda values: values["provenance"].update(model="\u202egpj.exe"), "control character"),
    ],
)
def test_the_message_names_what_is_wrong(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 1, "schema_version": 1}',
        '{"a": NaN}',
        "[" * 100_000,
        "9" * 5000,
        '{"a": 1e999}',
    ],
)
def test_text_that_is_not_a_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="manifest"):
        read_bundle(folder)


def test_a_manifest_in_another_encoding_or_too_large(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe{")
    with refuses(BundleError, MANIFEST, "UTF-8"):
        read_bundle(folder)
    os.truncate(folder / MANIFEST, MAX_TEXT_BYTES + 1)
    with refuses(BundleError, MAX_TEXT_BYTES + 1, MAX_TEXT_BYTES):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "labels.txt", "golden.npz"])
def test_links_that_leave_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with refuses(BundleError, name):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "labels.txt"])
def test_missing_files_pipes_folders_and_circular_links_are_refused(folder: Path, name: str) -> None:
    path = folder / name
    path.unlink()
    if name != MANIFEST:
        with refuses(BundleError, name):
            read_bundle(folder)
    os.mkfifo(path)
    with refuses(BundleError, name):
        read_bundle(folder)
    path.unlink()
    path.mkdir()
    with refuses(BundleError, name):
        read_bundle(folder)
    path.rmdir()
    path.symlink_to(path)
    with refuses(BundleError, name):
        read_bundle(folder)


def test_a_bundle_behind_a_link_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert read_bundle(tmp_path / "link").labels[0] == "class 0"


def test_changed_content_is_detected_unless_hashes_are_not_checked(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(MODEL[::-1])
    with refuses(BundleError, "model.onnx"):
        read_bundle(folder)
    read_bundle(folder, check_hashes=False)
    (folder / "model.onnx").write_bytes(MODEL[:-1])
    with refuses(BundleError, "model.onnx", 259, 260):
        read_bundle(folder, check_hashes=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\n", "2 labels, but the model has 10"),
        (b"\xff\n" * 10, "not UTF-8"),
        (b"a\x1b[31m\n" + b"b\n" * 9, "control character"),
        ("cat\u202egod\n".encode() + b"b\n" * 9, "control character"),
        ("cat\u2066god\n".encode() + b"b\n" * 9, "control character"),
    ],
)
def test_labels_must_fit(folder: Path, content: bytes, message: str) -> None:
    replace_file(folder, "labels.txt", content)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_labels_of_every_script_are_read(folder: Path) -> None:
    names = ["חתול", "قطة\u200c", "👩\u200d🚀", "猫", "a\u200eb", "é", "Ж", "ß", "ไทย", "x"]
    replace_file(folder, "labels.txt", "\n".join(names).encode())
    assert list(read_bundle(folder).labels) == names


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    good = golden()
    np.savez(buffer, **{**{"pixels": good.pixels, "logits": good.logits, "tolerance": np.float64(0.1)}, **arrays})
    return buffer.getvalue()


def false_header() -> bytes:
    """An npz whose header claims that the pixels have 16 TiB."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (17592186044416,), }\n"
    buffer = io.BytesIO(npz())
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pixels.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        npz()[:-40],
        npz(pixels=np.array([Trap()], object)),
        npz(pixels=np.zeros((2, SIDE, SIDE, 3))),
        npz(pixels=np.zeros((0, SIDE, SIDE, 3), np.uint8), logits=np.zeros((0, CLASSES), np.float32)),
        npz(pixels=np.uint8(3)),
        npz(logits=np.zeros((2, CLASSES + 1), np.float32)),
        npz(logits=np.full((2, CLASSES), np.nan, np.float32)),
        npz(tolerance=np.float64(-1)),
        npz(tolerance=np.float64("inf")),
        npz(tolerance=np.zeros(3)),
        false_header(),
    ],
    ids=lambda content: str(len(content)),
)
def test_damaged_golden_samples(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file(folder, "golden.npz", content)
    monkeypatch.chdir(folder)
    bundle = read_bundle(folder)
    with refuses(BundleError, "golden.npz"):
        bundle.golden()
    assert not Path("trapped").exists()


def test_golden_samples_that_unpack_to_too_many_bytes_are_refused(folder: Path) -> None:
    content = bytearray((folder / "golden.npz").read_bytes())
    size = content.index(b"PK\x01\x02") + 24  # of the first file, in the zip's directory
    content[size : size + 4] = (MAX_GOLDEN_BYTES + 1).to_bytes(4, "little")
    replace_file(folder, "golden.npz", bytes(content))
    with refuses(BundleError, "golden.npz", MAX_GOLDEN_BYTES):
        read_bundle(folder).golden()


# Writing


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_older_bundle_is_replaced(folder: Path, model: Path) -> None:
    (folder / "left over").write_text("")
    model.write_bytes(b"new")
    write(folder, model)
    assert read_bundle(folder).model_path.read_bytes() == b"new"
    assert not (folder / "left over").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_bundle_may_replace_an_empty_folder_but_no_other(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", model)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("precious")
    for path in (tmp_path / "own", model):
        with refuses(OutputError, path):
            write(path, model)
    assert snapshot(tmp_path / "own") == {"thesis.txt": b"precious"}


FAILURES = [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), RuntimeError("bug")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize(
    "step", ["shutil.copyfile", "np.savez", "file_sha256", "_write_text", "read_bundle", "rename 1", "rename 2"]
)
def test_a_failed_write_leaves_only_the_older_bundle(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    before = snapshot(folder.parent)
    model.write_bytes(b"new")
    calls = 0
    rename = Path.rename

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise failure

    def fail_at(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        return fail() if calls == int(step[-1]) else rename(path, target)

    if step.startswith("rename"):
        monkeypatch.setattr(Path, "rename", fail_at)
    else:
        monkeypatch.setattr(f"edgekit.runtime.bundle.{step}", fail)
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        write(folder, model)
    assert snapshot(folder.parent) == before


def test_an_output_below_a_file(model: Path) -> None:
    with pytest.raises(OutputError):
        write(model / "bundle", model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["one"]}, "1 labels, but the model has 10"),
        ({"labels": ["two\nlines", *tiny_labels()[1:]]}, "11 labels"),
        ({"golden": Golden(golden().pixels[:, 1:], golden().logits, 0.1)}, "golden pixels"),
        ({"golden": Golden(golden().pixels, golden().logits, float("nan"))}, "not finite"),
        ({"manifest": replace(tiny_manifest(), target="tensorrt")}, "target"),
        ({"manifest": tiny_manifest(model_file="other.onnx")}, "model_file"),
        ({"manifest": tiny_manifest(labels_file="../labels.txt")}, r"\.\./labels\.txt"),
        ({"manifest": tiny_manifest(classes=11)}, "golden logits"),
    ],
)
def test_parts_that_do_not_fit_are_not_written(
    tmp_path: Path, model: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write(tmp_path / "bundle", model, **changes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.onnx"]


def test_model_files_stay_in_the_bundle(tmp_path: Path, model: Path) -> None:
    with refuses(BundleError, "../model.onnx"):
        write_bundle(tmp_path / "bundle", {"../model.onnx": model}, tiny_manifest(), tiny_labels(), golden())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.onnx"]


def test_a_moved_bundle_can_be_read(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "moved")
    read_bundle(tmp_path / "moved").golden()
