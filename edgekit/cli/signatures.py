"""`edgekit sign` and `edgekit verify`: signatures of bundles."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import panels
from edgekit.cli.app import app
from edgekit.cli.arguments import BundlePath


@app.command(rich_help_panel=panels.MORE)
def sign(
    bundle: BundlePath,
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            rich_help_panel=panels.BUNDLES,
            help="PEM file with your private key, of the curve P-256, P-384 or P-521 and without a passphrase.",
        ),
    ],
) -> None:
    """Sign a bundle, so that devices and apps can tell that it is yours.

    Writes model.sig into the bundle's folder, in the OpenSSF Model Signing
    format, which model_signing verifies too. Sign when the bundle is final:
    afterwards no file in its folder may change, and none may be added.
    """
    from edgekit.runtime.signature import SIGNATURE, sign_bundle

    fingerprint = sign_bundle(bundle, key)
    print(f"signed: {bundle / SIGNATURE}, with the key {fingerprint}")


@app.command(rich_help_panel=panels.MORE)
def verify(
    bundle: BundlePath,
    key: Annotated[
        Path,
        typer.Option(metavar="FILE", rich_help_panel=panels.BUNDLES, help="PEM file with the signer's public key."),
    ],
) -> None:
    """Check that a key signed a bundle, and that nothing in it has changed.

    Accepts signatures of `edgekit sign`, and those that `model_signing sign
    key` wrote to model.sig in the bundle's folder. The exit code is 2 if the
    bundle is not signed, another key signed it, or a file differs, is missing
    or was added.
    """
    from edgekit.runtime.signature import fingerprint, read_public_key, read_signed_bundle

    public = read_public_key(key)
    read_signed_bundle(bundle, public)
    print(f"verified: {bundle} is as it was signed with the key {fingerprint(public)}")
