"""Thumbnails of the images on the page, which the run folder keeps apart from the documents that are shared."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.report.serialization import parse
from edgekit.support.files import write_json
from edgekit.support.run_folder import STATE

FILE = f"{STATE}/thumbnails.json"
"""File in a run folder with a JPEG file for the name of each image."""


def read_thumbnails(folder: Path) -> dict[str, bytes]:
    """JPEG files by the names of the images; empty where the run keeps none. Raises InputError for a damaged file."""
    file = folder / FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    return parse(content, dict[str, bytes], f"'{file}'")


def write_thumbnails(folder: Path, thumbnails: Mapping[str, bytes]) -> None:
    """Replace the thumbnails of a run. Without any, there is no file."""
    if thumbnails:
        write_json(folder / FILE, msgspec.to_builtins(dict(thumbnails)))
    else:
        (folder / FILE).unlink(missing_ok=True)
