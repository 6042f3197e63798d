"""Commands that edgekit no longer has, and those that took their place."""

import shlex
from collections.abc import Sequence

from edgekit.errors import UsageError

GONE = {("devices", "check"): ("doctor",)}
"""Words of commands that are gone, and the words to use instead."""


def check_not_gone(arguments: Sequence[str]) -> None:
    """Raise UsageError for a command that is gone, with the one to run instead."""
    for before, now in GONE.items():
        if tuple(arguments[: len(before)]) == before:
            command = shlex.join(["edgekit", *now, *arguments[len(before) :]])
            raise UsageError(f"`edgekit {' '.join(before)}` is now `edgekit {' '.join(now)}`", fix=f"Run `{command}`")
