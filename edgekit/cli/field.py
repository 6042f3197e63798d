"""Commands for devices in the field: push, rollback, and sign and verify for the bundles that go there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import api
from edgekit.cli import completion, panels
from edgekit.cli.arguments import BUNDLE, NEEDED, argument, bundle_option, device_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.job.job import OF_BUNDLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.devices.push import Pushed

PUSH_EXAMPLES = """
Examples:
  edgekit push runs/demo/tflite-int8 pi5
  edgekit push runs/demo/tflite-int8 pi5 --name door --max-p99 40
  edgekit push runs/demo/tflite-int8 pi5-1 pi5-2 pi5-3 --canary 1 --parallel 2
"""
ROLLBACK_EXAMPLES = """
Examples:
  edgekit rollback pi5 --name door
  edgekit rollback pi5-1 pi5-2 --name door --to 211412ab02c7
"""

DEVICE_NAMES = argument("DEVICE", "Names of devices, or ssh://USER@HOST.", autocompletion=completion.saved_devices)
APP_NAME = device_option("APP", "Name of the app, which has its own two slots.", value="app", flags=("--name",))


@command(panels.MORE, of=api.push, defaults={"threads": OF_BUNDLE}, epilog=PUSH_EXAMPLES)
def push(
    stated: dict[str, Any], json_: bool, quiet: bool, bundle: Path = BUNDLE, names: list[str] = DEVICE_NAMES
) -> Answer:
    """Put a bundle on devices, try it there, and make it an app's active one.

    Each device opens the bundle in a fresh process, runs its golden samples and
    times it. If all is well, the link ~/edgekit-apps/APP/current is switched to
    it in one step. Otherwise the active bundle stays, and the exit code is 1.

    Only files that a device lacks are copied, and an interrupted copy is
    resumed. A device that doesn't pass stops the roll-out.
    """
    return _answer(lambda: api.push(bundle, names, quiet=quiet or json_, **stated))


@command(panels.MORE, epilog=ROLLBACK_EXAMPLES)
def rollback(
    json_: bool,
    quiet: bool,
    names: list[str] = DEVICE_NAMES,
    name: str = APP_NAME,
    to: str | None = device_option(
        "HASH",
        "Hash of the bundle to return to, or its beginning, as `edgekit devices status` shows it.",
        flags=("--to",),
        show_default="the bundle that the last push replaced",
    ),
) -> Answer:
    """Switch an app back to the bundle that the last push replaced.

    The names and sizes of its files are compared with the record of its trial,
    and the link is switched in one step. Nothing has to be installed, read or
    waited for. The same command a second time changes nothing, so repeat it
    after a lost connection.
    """
    from edgekit.devices.push import check_app, check_hash, roll_back_devices
    from edgekit.devices.registry import find_remote
    from edgekit.support.progress import Reporter

    check_app(name)
    check_hash(to)
    devices = [find_remote(each) for each in dict.fromkeys(names)]
    return _answer(lambda: roll_back_devices(devices, name, Reporter(quiet or json_), to))


def _answer(work: "Callable[[], Pushed]") -> Answer:
    """What devices have after this work, or when Ctrl-C ends it."""
    from edgekit.cli.field_lines import pushed_lines
    from edgekit.devices.push import Interrupted

    interruption = None
    try:
        pushed = work()
    except Interrupted as interrupted:
        pushed, interruption = interrupted.pushed, interrupted
    passed = all(result.verdict == "pass" for result in pushed.results)
    return Answer(pushed, pushed_lines(pushed), passed=passed, error=interruption)


@command(panels.MORE)
def sign(
    bundle: Path = BUNDLE,
    key: Path = bundle_option(
        "FILE",
        "PEM file with your private key, of the curve P-256, P-384 or P-521 and without a passphrase.",
        value=NEEDED,
    ),
) -> str:
    """Sign a bundle, so that devices and apps can tell that it is yours.

    Writes model.sig into the bundle's folder, in the OpenSSF Model Signing
    format, which model_signing verifies too. Sign when the bundle is final:
    afterwards no file in its folder may change, and none may be added.
    """
    from edgekit.runtime.signature import SIGNATURE, sign_bundle

    fingerprint = sign_bundle(bundle, key)
    return f"signed: {bundle / SIGNATURE}, with the key {fingerprint}"


@command(panels.MORE)
def verify(
    bundle: Path = BUNDLE,
    trust: Path = bundle_option(
        "FILE", "PEM file with the signer's public key.", value=NEEDED, flags=("--trust", "--key")
    ),
) -> str:
    """Check that a key signed a bundle, and that nothing in it has changed.

    Accepts signatures of `edgekit sign`, and those that `model_signing sign
    key` wrote to model.sig in the bundle's folder. The exit code is 2 if the
    bundle is not signed, another key signed it, or a file differs, is missing
    or was added.
    """
    from edgekit.runtime.signature import fingerprint, read_public_key, read_signed_bundle

    public = read_public_key(trust)
    read_signed_bundle(bundle, public)
    return f"verified: {bundle} is as it was signed with the key {fingerprint(public)}"
