"""Comparing releases. The SDK needs nothing but numpy, Pillow and a runtime, so it can't count on `packaging`."""

import re


def release(version: str, parts: int = 5) -> tuple[int, ...]:
    """The first `parts` numbers of a version, padded with zeros: (3, 13) of "3.13.5rc1" for 2 parts.

    Pre-releases count as the release that they lead to. The tuple is empty where the version starts with no number.
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        return ()
    release = [int(part) for part in numbers.group().split(".")]
    return tuple((release + [0] * parts)[:parts])
