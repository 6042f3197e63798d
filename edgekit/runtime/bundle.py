"""A bundle: the folder that is shipped, with a model, its manifest, its labels and golden samples.

A bundle may come from a stranger. Reading one opens only regular files inside its folder, runs no code from it, and
checks every name, type, size and hash before an engine opens the model.
"""

import json
import math
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, OutputError
from edgekit.runtime.manifest import MANIFEST as MANIFEST
from edgekit.runtime.manifest import FileEntry, check_file_name, parse_manifest
from edgekit.runtime.manifest import Manifest as Manifest
from edgekit.runtime.strict_json import check_printable
from edgekit.support.files import digest, file_sha256, replace_text, replacing, writing

COPY_AGAIN = "Copy the whole folder again"
MAX_TEXT_BYTES = 32 << 20
MAX_GOLDEN_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class Golden:
    """Images with the outputs that the model computed for them where the bundle was made."""

    pixels: NDArray[np.uint8]
    """Cropped images, uint8 [N,H,W,C]."""
    logits: NDArray[np.float32]
    """Expected outputs, float32 [N,classes]."""
    tolerance: float
    """Largest absolute difference of an output that is allowed on another machine."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest and labels were read and checked."""

    path: Path
    """Folder of the bundle."""
    manifest: Manifest
    """Content of its manifest.json."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the outputs; "0", "1", … for the values of a vector."""

    @property
    def model_path(self) -> Path:
        """Path of the file that the engine opens."""
        return self.path / self.manifest.model_file

    @property
    def size_bytes(self) -> int:
        """Size of the files that the engine loads, without labels and golden samples."""
        own = (self.manifest.labels_file, self.manifest.golden_file)
        return sum(entry["size_bytes"] for name, entry in self.manifest.files.items() if name not in own)

    @property
    def sha256(self) -> str:
        """Hash of the manifest, which has the hash of every file."""
        return digest(self.manifest.to_dict())

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file by name, in order: of the manifest as it is on disk, of the others as it says."""
        files = {name: entry["sha256"] for name, entry in self.manifest.files.items()}
        return dict(sorted({MANIFEST: file_sha256(self.path / MANIFEST), **files}.items()))

    def golden(self) -> Golden:
        """Read the golden samples; raises BundleError if they are damaged or don't fit the manifest."""
        name = self.manifest.golden_file
        try:
            golden = _load_golden(own_file(self.path, name))
            _check_golden(golden, self.manifest)
        except BundleError as error:
            raise _in_bundle(self.path, error, f"{name}: ") from error
        # numpy and zipfile raise almost anything on a damaged archive, even MemoryError for a false header
        except Exception as error:
            raise BundleError(f"bundle '{self.path}': {name} is damaged: {error}", fix=COPY_AGAIN) from error
        return golden


def read_bundle(path: str | os.PathLike[str], check_hashes: bool = True) -> Bundle:
    """Read the manifest and labels of a bundle, and check its files.

    Args:
        path: Folder of the bundle.
        check_hashes: Compare the sha256 of every file with the manifest. Without it, only names and sizes are checked.

    Raises:
        BundleError: The folder has no manifest. The manifest has an unknown schema_version, or a key is missing,
            unknown or wrong. A file is missing, is a link to a place outside the folder, or has another size or sha256.
            The number of labels is not the number of classes.
    """
    path = Path(path)
    if not os.path.isdir(path):
        problem = "is a file" if os.path.exists(path) else "doesn't exist"
        raise BundleError(f"'{path}' {problem}", valid="the folder of a bundle")
    if not os.path.lexists(path / MANIFEST):
        raise BundleError(f"'{path}' is not a bundle: it has no {MANIFEST}", fix="Make one with `edgekit deploy MODEL`")
    try:
        manifest = parse_manifest(read_text(path, MANIFEST))
        for name, entry in manifest.files.items():
            _check_file(path, name, entry, check_hashes)
        labels = _parse_labels(read_text(path, manifest.labels_file), manifest)
    except BundleError as error:
        raise _in_bundle(path, error) from error
    except OSError as error:
        raise BundleError(f"bundle '{path}' can't be read: {error.strerror or error}") from error
    return Bundle(path, manifest, labels)


def _in_bundle(path: Path, error: BundleError, file: str = "") -> BundleError:
    """The same error with the path of its bundle."""
    return BundleError(f"bundle '{path}': {file}{error.problem}", valid=error.valid, fix=error.fix)


def write_bundle(
    path: str | os.PathLike[str],
    model_files: Mapping[str, Path],
    manifest: Manifest,
    labels: Sequence[str],
    golden: Golden,
) -> Bundle:
    """Write a bundle in a temporary folder next to `path`, then rename it.

    An older bundle at `path` is replaced, and stays untouched if writing fails.

    Args:
        path: Folder of the new bundle.
        model_files: Files to copy, by their names in the bundle.
        manifest: Manifest without `files`, which this function fills in.
        labels: Names of the classes, in the order of the outputs.
        golden: Samples that `Session.verify` compares with.

    Returns:
        The bundle, read back from disk.

    Raises:
        BundleError: Manifest, labels and golden samples don't fit each other.
        OutputError: `path` is neither a bundle nor an empty folder, or can't be written.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))
    try:
        if place.exists() and not (place.is_dir() and ((place / MANIFEST).is_file() or not any(place.iterdir()))):
            raise OutputError(
                f"'{path}' exists and is not a bundle", fix="Choose another place with --output, or remove it"
            )
        with replacing(place) as building:
            building.mkdir(parents=True)
            bundle = _fill(building, model_files, manifest, labels, golden)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(
            f"can't write bundle '{path}': {error.strerror or error}{where}",
            fix="Choose another place with --output, or make room",
        ) from error
    return replace(bundle, path=path)


def _fill(
    folder: Path, model_files: Mapping[str, Path], manifest: Manifest, labels: Sequence[str], golden: Golden
) -> Bundle:
    names = [*model_files, manifest.labels_file, manifest.golden_file]
    for name in names:
        check_file_name("files", name)
    _check_golden(golden, manifest)
    for name, source in model_files.items():
        shutil.copyfile(source, folder / name)
    _write_text(folder / manifest.labels_file, "".join(f"{label}\n" for label in labels))
    np.savez(
        folder / manifest.golden_file,
        pixels=np.ascontiguousarray(golden.pixels),
        logits=np.ascontiguousarray(golden.logits),
        tolerance=np.float64(golden.tolerance),
    )
    files = {
        name: FileEntry(sha256=file_sha256(folder / name), size_bytes=(folder / name).stat().st_size) for name in names
    }
    _write_text(folder / MANIFEST, _text_of(replace(manifest, files=files)))
    return read_bundle(folder, check_hashes=False)  # a bundle that can't be read back must not be shipped


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with other values of these manifest keys, which its manifest on disk has from now on.

    No other file changes. A signature, which covers the manifest, is no longer valid. Raises OutputError.
    """
    manifest = replace(bundle.manifest, **changes)
    if manifest == bundle.manifest:
        return bundle
    with writing(bundle.path / MANIFEST):
        replace_text(bundle.path / MANIFEST, _text_of(manifest))
    return replace(bundle, manifest=manifest)


def _text_of(manifest: Manifest) -> str:
    return json.dumps(manifest.to_dict(), indent=1, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="\n")


def _parse_labels(text: str, manifest: Manifest) -> tuple[str, ...]:
    labels = text.removesuffix("\n").split("\n")
    for label in labels:
        check_printable(manifest.labels_file, label)
    if len(labels) != manifest.classes:
        raise BundleError(
            f"{manifest.labels_file} has {len(labels)} labels, but the model has {manifest.classes} classes"
        )
    return tuple(labels)


def own_file(folder: Path, name: str) -> Path:
    """Path of a regular file directly in `folder`; raises BundleError for anything else, and for links to elsewhere."""
    path = folder / name
    if os.path.dirname(os.path.realpath(path)) != os.path.realpath(folder):
        raise BundleError(f"file '{name}' is a link to a place outside the folder")
    if not path.exists():
        raise BundleError(f"file '{name}' is missing", fix=COPY_AGAIN)
    if not stat.S_ISREG(path.stat().st_mode):
        raise BundleError(f"'{name}' is not a regular file")
    return path


def _check_file(folder: Path, name: str, entry: FileEntry, check_hash: bool) -> None:
    """Raise BundleError if a file doesn't have the size or, if asked, the hash of its entry."""
    path = own_file(folder, name)
    size = path.stat().st_size
    if size != entry["size_bytes"]:
        raise BundleError(
            f"file '{name}' has {size} bytes, but the manifest says {entry['size_bytes']}", fix=COPY_AGAIN
        )
    if check_hash and file_sha256(path) != entry["sha256"]:
        raise BundleError(f"file '{name}' was changed: its sha256 differs from the manifest's", fix=COPY_AGAIN)


def read_text(folder: Path, name: str) -> str:
    """Text of a file directly in `folder`; raises BundleError for what `own_file` refuses, and for other content."""
    path = own_file(folder, name)
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise BundleError(f"file '{name}' has {path.stat().st_size} bytes", valid=f"at most {MAX_TEXT_BYTES} bytes")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"file '{name}' is not UTF-8 text: {error.reason}") from error


def _load_golden(path: Path) -> Golden:
    """Read golden samples; raises BundleError if they are too large, and almost anything if the file is damaged."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_GOLDEN_BYTES:
        raise BundleError(f"it unpacks to {size} bytes", valid=f"at most {MAX_GOLDEN_BYTES} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        return Golden(arrays["pixels"], arrays["logits"], float(arrays["tolerance"]))


def _check_golden(golden: Golden, manifest: Manifest) -> None:
    """Raise BundleError if the samples don't fit the manifest."""
    pixels, logits = golden.pixels, golden.logits
    count = len(pixels) if pixels.ndim else 0
    for name, array, shape, dtype in (
        ("pixels", pixels, (count, *manifest.preprocessing.crop_shape), np.uint8),
        ("logits", logits, (count, manifest.classes), np.float32),
    ):
        if array.dtype != dtype or array.shape != shape or count == 0:
            raise BundleError(
                f"the golden {name} are {array.dtype} {list(array.shape)}",
                valid=f"{np.dtype(dtype)} {list(shape)} with at least one sample",
            )
    if not np.isfinite(logits).all() or not math.isfinite(golden.tolerance) or golden.tolerance < 0:
        raise BundleError(
            f"the golden outputs or their tolerance ({golden.tolerance}) are not finite, or the tolerance is negative"
        )
