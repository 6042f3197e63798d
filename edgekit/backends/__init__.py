"""One file for each runtime: how a graph becomes a file that it loads."""

from edgekit.backends.base import Artifact, Backend
from edgekit.libraries import import_needed
from edgekit.targets import find_target

__all__ = ["Artifact", "Backend", "load_backend"]


def load_backend(target: str) -> Backend:
    """The backend of this target, imported now; MissingExtraError if a package that it needs is missing."""
    backend: Backend = import_needed(find_target(target).backend, "build").Backend()
    return backend
