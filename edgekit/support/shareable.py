"""Keep local folders out of reports, which are shared: a path becomes its last name.

The address of a device stays, because it is the name of the device in the rows. `edgekit devices add` gives it another.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

_OPTION = re.compile(r"--[\w-]+=|-\w=?(?=[/\\.~])|[A-Za-z_]\w*=")
"""An option or key in front of its value: `--data=photos`, `-oruns/demo`, `checkpoint=best.pth`."""
_NAMED = re.compile(r"ssh://|[A-Za-z][\w+-]+:(?![/\\])")
"""Start of a value that contains no local path: an address, or a source such as `open_clip:NAME`."""


def shareable_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command line, each path without its folders."""
    return tuple(map(_without_folders, arguments))


def _without_folders(argument: str) -> str:
    option = _OPTION.match(argument)
    start = option[0] if option else ""
    value = argument[len(start) :]
    # A path of this system has the separators of Windows or a subset of them.
    return argument if _NAMED.match(value) else start + (PureWindowsPath(value).name or value)


def without_folders(text: str, folders: Iterable[Path]) -> str:
    """The text with the paths of files in these folders relative to the folder."""
    for folder in folders:
        for prefix in (str(folder.absolute()), str(folder)):
            text = text.replace(prefix + os.sep, "")
    return text
