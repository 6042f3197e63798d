"""Runtimes that a test adds to the table, or changes there, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.config.runtimes import RUNTIMES, Runtime, register, unregister


@contextmanager
def registered(*rows: Runtime) -> Iterator[None]:
    """The table with these rows, each in place of one of the same name; afterwards it is as it was."""
    before = dict(RUNTIMES)
    _fill({**before, **{row.name: row for row in rows}})
    try:
        yield
    finally:
        _fill(before)


def _fill(rows: dict[str, Runtime]) -> None:
    for name in tuple(RUNTIMES):
        unregister(name)
    for row in rows.values():
        register(row)
