"""Tests of dictionaries of limited size."""

from edgekit.support.bounded import Bounded


def test_the_oldest_item_is_forgotten() -> None:
    squares: Bounded[int, int] = Bounded(2)
    for number in (1, 2, 3, 3):
        squares[number] = number**2
    assert squares == {2: 4, 3: 9}
