"""The order of images that run side by side, where it matters."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from threading import Condition

from torch.fx import Node


class Turns:
    """Lets each image wait at a node until all images before it have passed that node."""

    def __init__(self) -> None:
        self._condition, self._arrived = Condition(), Counter[Node]()
        self.error: BaseException | None = None
        """Error of the first image that failed. Once it is set, no image waits."""

    @contextmanager
    def turn(self, node: Node, image: int) -> Iterator[None]:
        """Run the block after those of all earlier images at this node. Raises CancelledError if an image failed."""
        with self._condition:
            self._condition.wait_for(lambda: self._arrived[node] == image or self.error)
            if self.error:
                raise CancelledError
        yield
        with self._condition:
            self._arrived[node] += 1
            self._condition.notify_all()

    @contextmanager
    def ended_by_error(self) -> Iterator[None]:
        """Let no other image wait for the one that fails inside the block."""
        try:
            yield
        except BaseException as error:
            with self._condition:
                self.error = self.error or error
                self._condition.notify_all()
            raise
