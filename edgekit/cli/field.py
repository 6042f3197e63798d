"""Commands for devices in the field: push and rollback, and the text of `edgekit devices status`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import completion, panels
from edgekit.cli.app import app
from edgekit.cli.arguments import BundlePath
from edgekit.cli.output import answer_width, clean_stdout, emit, wrapped
from edgekit.cli.shared import Json, Offline, Quiet, Threads
from edgekit.report.columns import Column, lines_of
from edgekit.report.figure import NOTHING

if TYPE_CHECKING:
    from edgekit.devices.app_state import AppState, Slot
    from edgekit.devices.push import PushedDevice
    from edgekit.devices.rollout import Pushed, Status

PUSH_EXAMPLES = """
Examples:
  edgekit push runs/demo/tflite-int8 pi5
  edgekit push runs/demo/tflite-int8 pi5 --name door --max-p99 40
  edgekit push runs/demo/tflite-int8 pi5-1 pi5-2 pi5-3 --canary 1 --parallel 2
"""
ROLLBACK_EXAMPLES = """
Examples:
  edgekit rollback pi5 --name door
"""
MOST_AT_ONCE = 64
MOST_MS = 3_600_000
HASH_DIGITS = 12
"""Digits of a bundle's hash that tables show."""

AppName = Annotated[
    str,
    typer.Option(
        "--name", metavar="APP", rich_help_panel=panels.DEVICE, help="Name of the app, which has its own two slots."
    ),
]
APP = "app"


@app.command(rich_help_panel=panels.MORE, epilog=PUSH_EXAMPLES)
def push(
    bundle: BundlePath,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="DEVICE", autocompletion=completion.saved_devices, help="Names of devices, or ssh://USER@HOST."
        ),
    ],
    name: AppName = APP,
    max_p99: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_MS,
            metavar="MS",
            show_default="1.5 times the p99 in the report of the bundle's run",
            rich_help_panel=panels.GATES,
            help="Largest p99 of the latency, in milliseconds, with which a device accepts the bundle. 0 turns the "
            "gate off.",
        ),
    ] = None,
    threads: Threads = None,
    canary: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            rich_help_panel=panels.DEVICE,
            help="Number of devices to push to first. The others follow if all of them pass.",
        ),
    ] = 1,
    parallel: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_AT_ONCE,
            metavar="N",
            rich_help_panel=panels.DEVICE,
            help="Largest number of devices to push to at the same time.",
        ),
    ] = 4,
    offline: Offline = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Put a bundle on devices, try it there, and make it an app's active one.

    Each device opens the bundle in a fresh process, runs its golden samples and
    times it. If all is well, the link ~/edgekit-apps/APP/current is switched to
    it in one step. Otherwise the active bundle stays, and the exit code is 1.

    Only files that a device lacks are copied, and an interrupted copy is
    resumed. A device that doesn't pass stops the roll-out.
    """
    from edgekit.devices.push import bound_for, check_app
    from edgekit.devices.registry import find_remote
    from edgekit.devices.rollout import push_bundle
    from edgekit.devices.trust import check_trust
    from edgekit.runtime.bundle import read_bundle
    from edgekit.support.progress import Reporter

    check_app(name)
    with clean_stdout() as out:
        devices = [find_remote(each) for each in dict.fromkeys(names)]
        read = read_bundle(bundle)
        check_trust(read, devices)
        bounds = {device: bound_for(read, device, max_p99, threads) for device in devices}
        pushed = push_bundle(read, bounds, name, Reporter(quiet or json_), canary, parallel, offline)
        if json_:
            emit(out, pushed)
        else:
            out.writelines(f"{line}\n" for line in _pushed_lines(pushed))
    return _exit_code(pushed)


@app.command(rich_help_panel=panels.MORE, epilog=ROLLBACK_EXAMPLES)
def rollback(
    device: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE", autocompletion=completion.saved_devices, help="The name of a device, or ssh://USER@HOST."
        ),
    ],
    name: AppName = APP,
    offline: Offline = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make the bundle that an app had before its active one again.

    Its files are compared with their hashes, and its golden samples run before
    the switch. A second rollback returns to the newer bundle.
    """
    from edgekit.devices.push import check_app, roll_back
    from edgekit.devices.registry import find_remote
    from edgekit.devices.rollout import Pushed
    from edgekit.support.progress import Reporter

    check_app(name)
    with clean_stdout() as out:
        result = roll_back(find_remote(device), name, Reporter(quiet or json_), offline)
        pushed = Pushed(app=name, sha256=None, results=(result,))
        if json_:
            emit(out, pushed)
        else:
            out.writelines(f"{line}\n" for line in _pushed_lines(pushed))
    return _exit_code(pushed)


def _exit_code(pushed: "Pushed") -> int:
    return 0 if all(result.verdict == "pass" for result in pushed.results) else 1


def _pushed_lines(pushed: "Pushed") -> Iterator[str]:
    """A table of what each device has now, the reasons of those that didn't pass, and what the app loads."""
    results = pushed.results
    yield from lines_of(
        [
            Column("", [result.device for result in results], left=True),
            Column("verdict", [result.verdict or "not begun" for result in results], left=True),
            Column("active", [_active(result) for result in results], left=True),
            Column("since", [(result.app and result.app.since) or NOTHING for result in results], left=True, rank=2),
            Column("p50 ms", [_ms(result, "p50_ms") for result in results], rank=1),
            Column("p99 ms", [_ms(result, "p99_ms") for result in results]),
        ],
        answer_width(),
    )
    for result in results:
        for reason in result.reasons:
            text = reason if reason.startswith(f"{result.device}: ") else f"{result.device}: {reason}"
            yield from wrapped(text, answer_width())
    active = [result.app for result in results if result.verdict == "pass" and result.app]
    for path, trust in dict.fromkeys((state.path, state.trust) for state in active):
        yield f"An app loads it with edgekit.load({path!r}{f', trust={trust!r}' if trust else ''})."
    if waiting := [result.device for result in results if result.verdict is None]:
        yield from wrapped(f"See what the others have: edgekit devices status {' '.join(waiting)}", answer_width())


def _ms(result: "PushedDevice", key: str) -> str:
    return f"{getattr(result.trial, key):.2f}" if result.trial else NOTHING


def _active(result: "PushedDevice") -> str:
    if result.app is None:
        return NOTHING if result.verdict == "fail" else "unknown"
    return _bundle(result.app.active)


def _bundle(slot: "Slot | None") -> str:
    """The name and the beginning of the hash of the bundle in a slot."""
    if slot is None:
        return NOTHING
    return f"{slot.record.bundle} {slot.record.sha256[:HASH_DIGITS]}" if slot.record else "unknown"


def status_lines(status: "Status") -> Iterator[str]:
    """A paragraph for each app on each device."""
    if not status.devices:
        yield "no devices: add one with edgekit devices add NAME ssh://USER@HOST"
    for device in status.devices:
        if device.failure:
            yield from wrapped(device.failure.message, answer_width())
            continue
        free = f"{(device.disk_free_bytes or 0) / 1e6:,.0f} MB free"
        if not device.apps:
            yield f"{device.device}: no apps, {free}"
        for state in device.apps:
            yield f"{device.device}: {state.name}, {free}"
            yield from (f"  {key + ':':<9} {value}" for key, value in _facts(state))


def _facts(state: "AppState") -> Iterator[tuple[str, str]]:
    if state.active is None:
        yield "active", "nothing yet"
        return
    yield "active", f"{_bundle(state.active)} since {state.since}"
    yield "verdict", str(state.verdict) + (f": {state.active.problem}" if state.active.problem else "")
    if record := state.active.record:
        trial = record.trial
        yield "model", f"{record.model or 'unknown'}, {record.precision}, made for {record.device_class}"
        yield "runtime", f"{trial.engine}, Python {trial.python}, pushed by edgekit {record.edgekit}"
        bound = f", at most {record.max_p99_ms:.2f} ms" if record.max_p99_ms else ""
        threads = f"{trial.threads} thread{'s' if trial.threads > 1 else ''}"
        yield from [("trust", f"bundles that the key in {state.trust} signed")] if state.trust else []
        note = ", emulated: not comparable" if trial.emulated else ""
        yield "latency", f"p50 {trial.p50_ms:.2f} ms, p99 {trial.p99_ms:.2f} ms{bound}, {threads}{note}"
    problem = f": {state.previous.problem}" if state.previous and state.previous.problem else ""
    yield "previous", f"{_bundle(state.previous)}{problem}"
