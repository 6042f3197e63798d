"""Closes everything that connects this process with devices, when a command ends early."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Closable(Protocol):
    """A connection to devices."""

    def close(self) -> None:
        """End it. Work in progress fails with the error of a lost device."""
        ...


_open: set[Closable] = set()


@contextmanager
def closing(connection: Closable) -> Iterator[None]:
    """Close a connection when the block ends, or earlier if `close_all` is called."""
    _open.add(connection)
    try:
        yield
    finally:
        connection.close()
        _open.discard(connection)


def close_all() -> None:
    """Close every connection of this process."""
    for connection in list(_open):
        connection.close()
