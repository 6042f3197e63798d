"""Versions in the forms that packages, Python and glibc use."""

import pytest

from edgekit.support.distribution import release


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.13.5", (3, 13)),
        ("2.36", (2, 36)),
        ("3", (3, 0)),
        ("2026.4.0-20112-abc", (2026, 4)),
        ("1.0rc1", (1, 0)),
        ("2.13.0+cpu", (2, 13)),
        ("unknown", ()),
        ("", ()),
    ],
)
def test_two_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert release(version, parts=2) == expected


def test_order() -> None:
    assert release("1.9.3") < release("1.10") < release("1.10.1") < release("2")
    assert release("2026.4") == release("2026.4.0") == release("2026.4.0.0.0")
