"""Threads for running a network on many images: several images side by side, or all cores for one image."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from edgekit.config import sizes
from edgekit.support.probe import available_cores

T = TypeVar("T")
R = TypeVar("R")


def is_small(network: nn.Module) -> bool:
    """Whether a network has at most `sizes.SIDE_BY_SIDE_UP_TO` weights."""
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())) <= sizes.SIDE_BY_SIDE_UP_TO


def at_once(network: nn.Module) -> int:
    """Number of images to run side by side: torch's number of threads, or 1 for a large network."""
    return torch.get_num_threads() if is_small(network) else 1


def keep_to_available_cores() -> None:
    """Give torch no more threads than this process may use cores; torch doesn't know the quotas of control groups."""
    if torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """The function's result for each item, in order. `count` items run at a time, with one torch thread each.

    The results are the same for any count. The function runs without gradients in threads, and in the caller's thread
    if `count` is 1. At most `count` results wait for the caller. An exception of the function is raised in the place of
    its result.

    Two threads on the same small operation gain little. If another process keeps one of their cores busy, every
    operation waits for that core: the same calibration took 250 s instead of 30 s.
    """
    if count == 1:
        yield from map(function, items)
        return

    def run(item: T) -> R:
        with torch.no_grad():  # which doesn't reach other threads
            return function(item)

    running: deque[Future[R]] = deque()
    with threads(1), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for item in items:
            running.append(pool.submit(run, item))
            if len(running) > count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
