"""The files in a bundle: regular ones directly in its folder, with the size and hash that the manifest states."""

import os
import stat
from pathlib import Path

from edgekit.errors import BundleError
from edgekit.runtime.manifest import FileEntry
from edgekit.support.hashes import file_sha256

COPY_AGAIN = "Copy the whole folder again"
MAX_TEXT_BYTES = 32 << 20


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


def check_file(folder: Path, name: str, entry: FileEntry, check_hash: bool) -> None:
    """Raise BundleError if a file doesn\'t have the size or, if asked, the hash of its entry."""
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
