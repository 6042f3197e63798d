"""The layouts in which labelled images are stored, and how that of a path is recognized."""

import os
from pathlib import Path

from edgekit.errors import DataError
from edgekit.images.layouts.folder import Folder, Zip, is_pattern
from edgekit.images.layouts.layout import Layout
from edgekit.images.layouts.parquet import Parquet
from edgekit.images.layouts.table import Table
from edgekit.images.layouts.webdataset import WebDataset

LAYOUTS: tuple[type[Layout], ...] = (Table, Parquet, WebDataset, Folder, Zip)
"""The layouts in the order in which they are tried. Any folder is a `Folder` if it has no shards."""
VALID = "; ".join(dict.fromkeys(layout.description for layout in (Folder, Table, Parquet, WebDataset)))
"""Valid image sets, for error messages."""


def open_layout(path: Path) -> Layout:
    """Open a set of images, or what follows its path, such as `images.zip/val`. Lists no images.

    Raises DataError if the path doesn't exist or is not a set, and MissingExtraError if its layout needs a package.
    """
    for place in (path, *path.parents):
        if not os.path.exists(place) and not (is_pattern(place) and place.suffix):
            continue
        inner = path.relative_to(place).as_posix()
        if place == Path() and inner != ".":
            break  # a mistyped name is no part of the current folder, which may hold anything
        for layout in LAYOUTS:
            opened = layout.open(place, "" if inner == "." else inner)
            if opened is not None:
                return opened
        if os.path.isfile(place):
            raise DataError(f"'{place}' is not a folder or a zip, nor a CSV, Parquet or tar by its suffix", valid=VALID)
        break
    raise DataError(f"'{path}' doesn't exist", valid=VALID)
