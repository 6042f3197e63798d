"""The SDK: load a bundle and classify with it. Importing it needs numpy and Pillow alone."""

import os

from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.session import Session, VerifyResult

__all__ = ["Session", "VerifyResult", "load"]


def load(
    path: str | os.PathLike[str], threads: int | None = None, verify: bool = False, low_precision: bool = False
) -> Session:
    """Open a bundle on `threads` threads (default: every core that this process may use).

    Hashes are checked before the runtime opens the model. With `low_precision` a float model is computed in bf16 or f16
    where its runtime would choose that on this processor: a report says where it pays; elsewhere it changes nothing.
    `verify` runs the golden samples on the session that is returned. Raises BundleError, UsageError, MissingExtraError
    with the pip command to run, EngineError, and GoldenError where `verify` fails.
    """
    session = Session(read_bundle(path), threads)
    try:
        low = session.in_low_precision() if low_precision else None
        if low is not None:
            session.close()
            session = low
        if verify:
            session.verify()
    except BaseException:
        session.close()
        raise
    return session
