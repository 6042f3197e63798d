"""Commands and options that edgekit no longer has, and what to use in their place."""

import shlex
from collections.abc import Sequence

from edgekit.errors import UsageError

RENAMED = {("devices", "check"): ("doctor",)}
"""Words of commands, and those that took their place."""
GONE = {
    "explain": "docs/reference/errors.md has the cause and the cure of each error",
    "--again": "Leave it out: `edgekit deploy RUN` runs the job of a run folder again",
}
"""Commands and options that nothing took the place of, and what to do."""


def check_not_gone(arguments: Sequence[str]) -> None:
    """Raise UsageError for a command or an option that is gone, with what to do instead."""
    for before, now in RENAMED.items():
        if tuple(arguments[: len(before)]) == before:
            command = shlex.join(["edgekit", *now, *arguments[len(before) :]])
            raise UsageError(f"`edgekit {' '.join(before)}` is now `edgekit {' '.join(now)}`", fix=f"Run `{command}`")
    for word, fix in GONE.items():
        if word in (arguments if word.startswith("-") else arguments[:1]):
            raise UsageError(f"edgekit has no `{word}` any more", fix=fix)
