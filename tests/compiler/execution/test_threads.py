"""Functions that run side by side give their results in order, and threads are given back."""

import pytest
import torch
from torch import nn

from edgekit.compiler.execution import at_once, is_small, side_by_side, threads


def test_results_come_in_order_and_threads_are_given_back() -> None:
    with threads(2):
        assert list(side_by_side(lambda item: (item, torch.get_num_threads()), range(20), 4)) == [
            (item, 1) for item in range(20)
        ]
        assert torch.get_num_threads() == 2


def test_gradients_are_off_in_every_thread() -> None:
    assert list(side_by_side(lambda _: torch.is_grad_enabled(), range(4), 2)) == [False] * 4


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_comes_in_the_place_of_its_result(count: int) -> None:
    results = side_by_side(lambda item: 6 // item, (1, 2, 0, 3), count)
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_large_network_runs_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(10, 9)
    with threads(2):
        assert at_once(network) == 2
        monkeypatch.setattr("edgekit.config.runtimes.SIDE_BY_SIDE_UP_TO", 98)
        assert not is_small(network)
        assert at_once(network) == 1
