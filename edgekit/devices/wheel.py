"""A wheel of edgekit for devices, written from the running package.

The running package may be a checkout or an installed one. A build system could build only the checkout, and a device
needs only a part of the package. This module therefore writes the wheel itself: Python and text files unchanged, device
classes and recipes in the place where an installed package has them, without the demo and the rooms that only make
bundles. The same content gives the same bytes, so the wheel's hash identifies it.
"""

import base64
import csv
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO, StringIO
from typing import Literal

from edgekit import __version__
from edgekit.config.toml_reader import data_folder
from edgekit.support import distribution

_STEM = f"{distribution.NAME.replace('-', '_')}-{__version__}"
NAME = f"{_STEM}-py3-none-any.whl"
REQUIREMENTS = ("numpy>=1.26", "pillow>=10.3", "msgspec>=0.20,<1")
"""Requirements of the agent in addition to a runtime: the package's own dependencies, and msgspec for messages."""
TRUST_REQUIREMENTS = ("cryptography>=43",)
"""What a device that takes only signed bundles needs in addition: the extra `trust`."""
_LEFT_OUT = frozenset(("__pycache__", "_data", "cli", "compiler", "demo", "job", "models", "pipeline", "tuning", "web"))
"""Folders that a device doesn't need, because it makes no bundles, serves no page and has no command line, and those
with another place."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
"""Mode of a regular file that its owner may write. Without it, some programs unpack files that nobody may read."""


def own_wheel() -> bytes:
    """Content of the wheel file."""
    content = dict(_content())
    folder = f"{_STEM}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)
    metadata = f"Metadata-Version: 2.1\nName: {distribution.NAME}\nVersion: {__version__}\n{needs}"
    content[f"{folder}/METADATA"] = metadata.encode()
    content[f"{folder}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edgekit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{folder}/RECORD"] = _record(content, f"{folder}/RECORD")
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = _MODE << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _record(content: Mapping[str, bytes], own_name: str) -> bytes:
    """The wheel's RECORD: SHA-256 and size in bytes of each file, except for RECORD itself."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((own_name, "", ""))
    return out.getvalue().encode()


def _content() -> Iterator[tuple[str, bytes]]:
    yield from _below("edgekit", files("edgekit"))
    kinds: tuple[Literal["targets", "calibration"], ...] = ("targets", "calibration")
    for kind in kinds:
        yield from _below(f"edgekit/_data/{kind}", data_folder(kind))


def _below(name: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{name}/{item.name}"
        if item.is_dir() and item.name not in _LEFT_OUT:
            yield from _below(path, item)
        elif item.is_file():
            yield path, item.read_bytes()
