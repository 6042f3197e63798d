"""The text of errors on the command line, and the general meaning of each kind."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit import errors
from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Explanation:
    """The meaning of an error, from the docstring of its class."""

    name: str
    """Name of the class, such as "BundleError"."""
    summary: str
    """Meaning of the error, in one sentence."""
    cause: str
    """Usual causes."""
    cure: str
    """Ways to fix it."""
    exit_code: int
    """Exit status of a command that ends with the error."""


def explain(name: str) -> Explanation:
    """The explanation of the error with this name, one of `errors.error_names()`."""
    kind = getattr(errors, name)
    summary, _, rest = inspect.cleandoc(kind.__doc__).partition("Cause: ")
    cause, _, cure = rest.partition("Cure: ")
    return Explanation(name, _line(summary), _line(cause), _line(cure), kind.exit_code)


def lines_of(error: EdgekitError) -> Iterator[str]:
    """An error as the command line prints it, one field per line."""
    yield f"edgekit: error: {error.problem}"
    for label, text in (("valid", error.valid), ("fix", error.fix)):
        if text:
            yield f"  {label + ':':<6} {text}"


def _line(paragraph: str) -> str:
    return " ".join(paragraph.split())
