"""Expects an error by its class and by the facts in its message, so that the message can be reworded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

AnyError = TypeVar("AnyError", bound=BaseException)


@contextmanager
def refuses(kind: type[AnyError], *facts: object) -> Iterator[pytest.ExceptionInfo[AnyError]]:
    """Expect an error of this class whose message contains each fact.

    A fact is what any wording contains: the value received, a valid one, the name of a key, file, option or command.
    """
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    missing = [fact for fact in map(str, facts) if fact not in message]
    assert not missing, f"{missing} not in: {message}"
