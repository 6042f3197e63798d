"""The SDK: load a bundle and classify images with it. Importing it needs only numpy and Pillow."""

import functools
import os
import warnings

from edgekit.errors import GoldenError
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.session import (
    GoldenWarning,
    LiveSession,
    SaturationWarning,
    Session,
    UpdateWarning,
    VerifyResult,
    warn_if_saturating,
)
from edgekit.runtime.signature import read_public_key, read_signed_bundle

__all__ = [
    "GoldenWarning",
    "LiveSession",
    "SaturationWarning",
    "Session",
    "UpdateWarning",
    "VerifyResult",
    "follow",
    "load",
]


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    verify: bool = False,
    low_precision: bool = False,
    trust: str | os.PathLike[str] | None = None,
) -> Session:
    """Open a bundle for inference.

    The hash of every file is checked before the runtime opens the model. Loading a bundle runs no code from it. A link
    to the folder, such as `edgekit push` makes, is followed once, so all files come from the same bundle.

    Warns with a SaturationWarning if INT8 weights of the bundle can saturate on this processor, which makes the model
    less accurate. It happens on x86 processors without VNNI, with bundles that edgekit made before it prevented this.

    Where another release of the runtime is installed than the bundle was made with, the test vectors are run as with
    `verify`, but a difference is only a GoldenWarning.

    Args:
        path: Folder of the bundle.
        threads: Number of threads that the runtime computes with. By default it is the number with which
            `edgekit deploy` found the bundle fastest, at most the number of physical cores that this process may use;
            it is that number for bundles whose manifest.json has no `threads`.
        verify: Run the bundle's test vectors on the session that is returned, and compare their outputs with the
            bundle's.
        low_precision: Compute a float model in bf16 or f16 where its runtime would choose that on this processor. The
            report of `edgekit deploy` shows where this is faster. Other models and processors are not affected.
        trust: PEM file with a public key. The bundle is opened only if that key signed it (`edgekit sign`) and no file
            was changed, added or removed since. Needs `cryptography`, which the extra `trust` brings.

    Returns:
        A session, which several threads may share.

    Raises:
        UsageError: `threads` is not a whole number from 1, or `trust` is not a public key.
        BundleError: The folder is not a bundle, or the bundle is damaged or of another version.
        SignatureError: With `trust`, the bundle is not signed, another key signed it, or it was changed.
        MissingExtraError: The runtime is not installed, or is older than the bundle needs, or `trust` needs
            `cryptography`. The error's `fix` is the command that installs it.
        EngineError: The runtime failed to load the model.
        GoldenError: With `verify`, an output differs from the bundle's by more than the tolerance.

    Examples:
        ```python
        import edgekit

        with edgekit.load("runs/demo/tflite-int8", threads=4) as classifier:
            for label, score in classifier.classify("cat.jpg", top=5):
                print(f"{score:6.1%}  {label}")
        ```
    """
    folder = os.path.realpath(path) if os.path.islink(path) else path
    bundle = read_bundle(folder) if trust is None else read_signed_bundle(folder, read_public_key(trust))
    session = Session(bundle, threads)
    warn_if_saturating(session.bundle)
    try:
        low = session.in_low_precision() if low_precision else None
        if low is not None:
            session.close()
            session = low
        if verify:
            session.verify()
        elif session.bundle.manifest.made_with not in (None, f"{session.engine_name} {session.engine_version}"):
            try:
                session.verify()
            except GoldenError as error:
                warnings.warn(str(error), GoldenWarning, stacklevel=2)
    except BaseException:
        session.close()
        raise
    return session


def follow(
    path: str | os.PathLike[str],
    threads: int | None = None,
    low_precision: bool = False,
    trust: str | os.PathLike[str] | None = None,
) -> LiveSession:
    """Open the bundle that a link points to, and open the next one when the link has changed.

    An app that runs for weeks uses it with the link that `edgekit push` switches. Each bundle has to pass its test
    vectors before it is used.

    Args:
        path: Link to the folder of a bundle, such as "edgekit-apps/app/current". A folder is opened like a link.
        threads: Number of threads that the runtime computes with. By default it is the number with which
            `edgekit deploy` found the bundle fastest, at most the number of physical cores that this process may use;
            it is that number for bundles whose manifest.json has no `threads`.
        low_precision: Compute a float model in bf16 or f16 where its runtime would choose that on this processor.
        trust: PEM file with a public key. A bundle is opened only if that key signed it. Needs `cryptography`, which
            the extra `trust` brings.

    Returns:
        A session, which several threads may share.

    Raises:
        EdgekitError: The first bundle can't be opened, or doesn't pass; these are the errors of `load` with `verify`.

    Examples:
        ```python
        import edgekit

        with edgekit.follow("runs/demo/tflite-int8", threads=4) as classifier:
            for label, score in classifier.classify("cat.jpg", top=5):
                print(f"{score:6.1%}  {label}")
        ```
    """
    return LiveSession(
        path, functools.partial(load, threads=threads, verify=True, low_precision=low_precision, trust=trust)
    )
