"""Temporary changes of the table of runtimes."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.config.runtimes import RUNTIMES, Runtime, register, unregister


@contextmanager
def registered(*rows: Runtime) -> Iterator[None]:
    """Inside the block, add these rows to the table, or replace those of the same names."""
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
