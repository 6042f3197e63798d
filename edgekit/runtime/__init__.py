"""The SDK: load a bundle and classify with it. Importing it needs numpy and Pillow alone."""

import os

from edgekit.bundle import read_bundle
from edgekit.runtime.session import Session, VerifyResult

__all__ = ["Session", "VerifyResult", "load"]


def load(path: str | os.PathLike[str], threads: int | None = None, verify: bool = False) -> Session:
    """Open a bundle on `threads` threads (default: every core that this process may use).

    Hashes are checked before the runtime opens the model; `verify` also runs the golden samples. Raises BundleError,
    UsageError, MissingExtraError with the pip command to run, EngineError, and GoldenError where `verify` fails.
    """
    session = Session(read_bundle(path), threads)
    if verify:
        try:
            session.verify()
        except BaseException:
            session.close()
            raise
    return session
