"""edgekit's own wheel for a device, written from the package that is running.

That package may be a checkout or an installed one; only the first could be built by its build system, and a device
needs a part of it. So the wheel is written here: Python and text files as they are, the device classes and recipes
where an installed package has them, without the demo. The same content gives the same bytes, so its hash names it.
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
"""What the agent imports beside an engine: the package's own dependencies, and msgspec for its messages."""
_LEFT_OUT = frozenset(("__pycache__", "demo", "_data"))
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
"""A regular file that its owner may write; without a mode, some programs unpack files that nobody may read."""


def own_wheel() -> bytes:
    """The wheel file."""
    content = dict(_content())
    folder = f"{_STEM}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in REQUIREMENTS)
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
    """The wheel's RECORD: the sha256 and the size in bytes of each file, and neither for RECORD itself."""
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
    for each in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{name}/{each.name}"
        if each.is_dir() and each.name not in _LEFT_OUT:
            yield from _below(path, each)
        elif each.is_file():
            yield path, each.read_bytes()
