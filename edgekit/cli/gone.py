"""Commands and options that edgekit no longer has, and what to use in their place."""

from collections.abc import Sequence

from edgekit.errors import UsageError

GONE = {
    ("devices", "check"): "Run `edgekit doctor DEVICE`",
    ("explain",): "docs/reference/errors.md has the cause and the cure of each error",
}
"""Words of commands that are gone, and what to do instead."""
GONE_OPTIONS = {"--again": "Leave it out: `edgekit deploy RUN` runs the job of a run folder again"}


def check_not_gone(arguments: Sequence[str]) -> None:
    """Raise UsageError for a command or an option that is gone, with what to do instead."""
    gone = {words: fix for words, fix in GONE.items() if tuple(arguments[: len(words)]) == words}
    for words, fix in gone.items():
        raise UsageError(f"edgekit has no command `{' '.join(words)}` any more", fix=fix)
    for option, fix in GONE_OPTIONS.items():
        if option in arguments:
            raise UsageError(f"edgekit has no option {option} any more", fix=fix)
