"""Work on one bundle after the other: an error costs its own bundle, and the others go on."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from edgekit.errors import DeviceError, costs_a_row
from edgekit.support.progress import Reporter

T = TypeVar("T")


def each_bundle(
    names: Iterable[str], work: Callable[[str], T], reporter: Reporter, what: str = ""
) -> tuple[dict[str, T], dict[str, Exception]]:
    """Results of the work by the bundle's name, and the errors of the other bundles, which are reported.

    A bug in edgekit costs its own bundle, too. Errors that concern the whole command or device are raised. `what` names
    the work in messages.
    """
    results: dict[str, T] = {}
    errors: dict[str, Exception] = {}
    for name in names:
        try:
            results[name] = work(name)
        except Exception as error:
            if not costs_a_row(error) or isinstance(error, DeviceError):
                raise
            reporter.failed(f"{name}: {what}" if what else name, error)
            errors[name] = error
    return results, errors
