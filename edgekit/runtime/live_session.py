"""A session that follows a link to a bundle, which `edgekit push` switches while the app runs."""

import os
import threading
import warnings
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.images.decoding import ImageLike
from edgekit.runtime.session import Session

Open = Callable[[str | os.PathLike[str]], Session]
"""Opens the bundle at a path, and raises an EdgekitError if it doesn't pass its golden samples."""


class UpdateWarning(UserWarning):
    """A new bundle can't be used, and the session keeps the old one."""


class LiveSession:
    """The session of the bundle that a link points to; `edgekit.follow` opens one.

    Each image is classified with one bundle. When the link has changed, the next call of `current`, `classify` or
    `embed` opens the new bundle and runs its golden samples. Only that call waits: those of other threads go on with
    the old bundle. Meanwhile both are in memory. If the new bundle can't be opened, or gives other numbers, an
    UpdateWarning says why, and the old one stays until the link changes again.

    Examples:
        Preprocess and classify in separate steps, with one session for each image:

        ```python
        with edgekit.follow("runs/demo/onnx-int8") as live:
            session = live.current()
            logits = session(session.preprocess("cat.jpg"))
            print(session.bundle.labels[logits[0].argmax()])
        ```
    """

    def __init__(self, path: str | os.PathLike[str], open_bundle: Open) -> None:
        """Open the bundle that a link points to, with the errors of `open_bundle`.

        Args:
            path: Link to the folder of a bundle, or the folder itself.
            open_bundle: Opens the bundle at this path, now and when the link has changed.
        """
        self._path, self._open = path, open_bundle
        self._opening = threading.Lock()
        self._seen = self._state()
        self._session = open_bundle(path)
        self._closed = False

    def current(self) -> Session:
        """Open the new bundle if the link has changed, and return the session to use for the next image."""
        if self._state() != self._seen and self._opening.acquire(blocking=False):
            try:
                self._reopen()
            finally:
                self._opening.release()
        return self._session

    def classify(
        self, image: ImageLike, top: int | None = None, threshold: float | None = None
    ) -> list[tuple[str, float]]:
        """Classify an image with the current session; `Session.classify` tells arguments, result and errors."""
        return self.current().classify(image, top, threshold)

    def embed(self, image: ImageLike) -> NDArray[np.float32]:
        """The vector of an image with the current session; `Session.embed` tells argument, result and errors."""
        return self.current().embed(image)

    def close(self) -> None:
        """Release the model for good: classifying afterwards raises EngineError, even if the link changes again."""
        with self._opening:
            self._closed = True
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _state(self) -> tuple[int, int, int] | None:
        """Identity of the folder that the link points to, which no other folder has; None if there is none."""
        try:
            facts = os.stat(self._path)
        except OSError:
            return None
        return facts.st_dev, facts.st_ino, facts.st_mtime_ns

    def _reopen(self) -> None:
        state = self._state()
        if self._closed or state in (None, self._seen):
            return
        # Whatever becomes of this bundle, it is not tried again: a switch during the attempt gives another state.
        self._seen = state
        try:
            # Other threads may still run the old session, which is released with their last reference to it.
            self._session = self._open(self._path)
        except (EdgekitError, OSError) as error:
            old = self._session.bundle.path
            warnings.warn(f"the bundle '{old}' stays in use, because: {error}", UpdateWarning, stacklevel=4)
