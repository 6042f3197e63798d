"""The layers that each attempt of a repair keeps in float."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from edgekit.tuning.mixtures import attempts_of


class Noises:
    """Stands for `Mixtures` of layers whose noises add up."""

    def __init__(self, noises: Mapping[str, float]) -> None:
        self._noises, self.everything = noises, frozenset(noises)
        self._ran = {self.everything}

    def run(self, mixtures: Iterable[frozenset[str]], on_image: Any) -> None:
        self._ran |= set(mixtures)

    def noise(self, mixture: frozenset[str]) -> float:
        assert mixture in self._ran
        return sum(self._noises[name] for name in mixture)


@pytest.mark.parametrize(
    ("noises", "attempts"),
    [
        ({"a": 100, "b": 20, "c": 4, "d": 1, "e": 0.5}, ["a", "ab", "abc"]),
        ({"a": 1000, "b": 1, "c": 1}, ["a", "ab"]),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1}, ["abcdef"]),
        ({"a": 1, "b": 1}, []),
        ({"a": 1}, []),
    ],
    ids=["each layer a quarter", "one destroyed layer", "equal layers", "half is not enough", "the only layer"],
)
def test_each_attempt_keeps_the_fewest_layers_that_cut_the_noise_enough(
    noises: Mapping[str, float], attempts: list[str]
) -> None:
    mixtures: Any = Noises(noises)
    assert list(attempts_of(mixtures, sorted(noises))) == [tuple(attempt) for attempt in attempts]
