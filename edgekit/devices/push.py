"""Push a bundle to devices, take it back, and describe what they have: the host's side, and the commands' documents."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit.config.runtimes import DeviceClass
from edgekit.devices.messages import AppsAnswer, AppState, DeviceTrial, PushJob, Slot, SlotRecord, Slotted
from edgekit.devices.registry import (
    NO_DEVICES,
    Device,
    each_device,
    find_remote,
    fingerprint_of,
    in_threads,
    other_key,
    saved_machines,
)
from edgekit.devices.remote import Board, files_of, open_board, run_agent
from edgekit.devices.scripts import APPS
from edgekit.devices.setup import ProbeResult, python_of
from edgekit.errors import BundleRefusedError, DeviceError, StageError, UsageError, costs_a_row
from edgekit.measure.settings import Timing
from edgekit.report import load_report
from edgekit.report.document import REPORT_FILE
from edgekit.report.figure import NOTHING, counted
from edgekit.report.page import Block, Column, Item, TextTable
from edgekit.report.row import Failure, Row
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.signature import SIGNATURE, parse_public_key, read_signed_bundle
from edgekit.support import child_process
from edgekit.support.progress import Reporter

MARGIN = 1.5
"""Factor between the report's p99 and the largest one that is accepted without --max-p99. A p99 of 200 rounds is the
second or third slowest of them, which varies from run to run; a bundle that is twice as slow is still refused."""
HASH_DIGITS = 12
"""Digits of a bundle's hash that people see."""
APP_KEY = "/etc/edgekit/trust.pem"
"""Place of an app's copy of the public key in examples: only root can write there."""
_HASH = re.compile(r"[0-9a-f]{6,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class LatencyBound:
    """The largest p99 with which a bundle is accepted on a device, and the threads that it is timed with."""

    max_p99_ms: float | None
    """Largest p99 in milliseconds, or None to accept any."""
    threads: int | None
    """Number of threads; None for every physical core."""
    origin: str
    """Origin of the bound, for messages."""


@dataclass(frozen=True, kw_only=True)
class PushedDevice:
    """The outcome of a push or rollback on one device."""

    device: str
    """Name of the device."""
    verdict: Literal["pass", "fail", "error"] | None
    """`pass`: the bundle is active. `fail`: it was refused. `error`: the device failed. null: nothing was begun,
    because another device didn't pass; with a reason, the command was interrupted before the device's answer."""
    reasons: tuple[str, ...] = ()
    """Reasons of a verdict other than "pass"."""
    failure: Failure | None = None
    """The error behind it."""
    trial: DeviceTrial | None = None
    """Trial of the bundle on the device; null if it didn't come to its end, and for a rollback."""
    app: AppState | None = None
    """What the device has now; null if it didn't say."""
    bundle_bytes: int | None = None
    """Size of the bundle's files; null before the copy, and for a rollback."""
    copied_bytes: int | None = None
    """Number of bytes that were sent to the device for them; null likewise."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The document of `edgekit push` and `edgekit rollback`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    app: str
    """Name of the app."""
    sha256: str | None
    """Hash of the manifest of the bundle that was pushed; null for a rollback."""
    results: tuple[PushedDevice, ...]
    """Outcome on each device."""

    def page(self) -> Iterator[Block]:
        """What each device has now, the reasons of those that didn't pass, and how an app loads the bundle."""
        results = self.results
        yield TextTable(
            [
                Column("", [result.device for result in results], left=True),
                Column(
                    "verdict",
                    [result.verdict or ("unknown" if result.reasons else "not begun") for result in results],
                    left=True,
                ),
                Column("active", [_active_words(result) for result in results], left=True),
                Column(
                    "since", [(result.app and result.app.since) or NOTHING for result in results], left=True, rank=2
                ),
                Column("p50 ms", [_ms(result, "p50_ms") for result in results], rank=1),
                Column("p99 ms", [_ms(result, "p99_ms") for result in results]),
            ]
        )
        for result in results:
            for reason in result.reasons:
                text = reason if reason.startswith(f"{result.device}: ") else f"{result.device}: {reason}"
                yield Item(text)
        active = [result.app for result in results if result.verdict == "pass" and result.app]
        for path, trust in dict.fromkeys((state.path, state.trust) for state in active):
            yield f"An app loads it with edgekit.load({path!r}{f', trust={APP_KEY!r}' if trust else ''})."
            if trust:
                yield Item(
                    f"Copy the public key to {APP_KEY} as root. Whoever may push can write the device's own copy of "
                    "it, so an app needs one that only root can write."
                )
        if waiting := [result.device for result in results if result.verdict is None]:
            yield Item(f"See what the others have: edgekit devices status {' '.join(waiting)}")


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """The apps on one device."""

    device: str
    """Name of the device."""
    url: str | None
    """ssh:// address."""
    failure: Failure | None = None
    """Reason why the device can't be asked, or null."""
    disk_free_bytes: int | None = None
    """Free disk space where the bundles are, in bytes."""
    apps: tuple[AppState, ...] = ()
    """The apps."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The document of `edgekit devices status`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    devices: tuple[DeviceStatus, ...]
    """The devices."""

    @property
    def passed(self) -> bool:
        """Whether every device could be asked, and no active bundle is damaged."""
        damaged = any(app.verdict == "error" for device in self.devices for app in device.apps)
        return not damaged and not any(device.failure for device in self.devices)

    def page(self) -> Iterator[Block]:
        """A paragraph for each app on each device."""
        if not self.devices:
            yield NO_DEVICES
        for device in self.devices:
            if device.failure:
                yield Item(device.failure.message)
                continue
            free = f"{(device.disk_free_bytes or 0) / 1e6:,.0f} MB free"
            if not device.apps:
                yield f"{device.device}: no apps, {free}"
            for state in device.apps:
                yield f"{device.device}: {state.name}, {free}"
                yield from (f"  {key + ':':<9} {value}" for key, value in _facts(state))


def _ms(result: PushedDevice, key: str) -> str:
    return f"{getattr(result.trial, key):.2f}" if result.trial else NOTHING


def _active_words(result: PushedDevice) -> str:
    if result.app is None:
        return NOTHING if result.verdict == "fail" else "unknown"
    return _bundle(result.app.active)


def _bundle(slot: Slot | None) -> str:
    """The name and the beginning of the hash of the bundle in a slot."""
    if slot is None:
        return NOTHING
    return f"{slot.record.bundle} {slot.record.sha256[:HASH_DIGITS]}" if slot.record else "unknown"


def _facts(state: AppState) -> Iterator[tuple[str, str]]:
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
        threads = counted(trial.threads, "thread")
        yield from [("trust", f"bundles that the key in {state.trust} signed")] if state.trust else []
        note = ", emulated: not comparable" if trial.emulated else ""
        yield "latency", f"p50 {trial.p50_ms:.2f} ms, p99 {trial.p99_ms:.2f} ms{bound}, {threads}{note}"
    other, record = state.previous, state.active.record
    newer = record is not None and record.sha256 == state.returns_to
    problem = f": {other.problem}" if other and other.problem else ""
    yield "newer" if newer else "previous", f"{_bundle(other)}{problem}"


def check_app(name: str) -> None:
    """Raise UsageError for a name of an app that can't be the name of a folder everywhere."""
    if not _NAME.fullmatch(name):
        valid = "1 to 64 letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise UsageError(f"the app's name is {name!r}", valid=valid, fix="Correct --name")


def check_hash(beginning: str | None) -> None:
    """Raise UsageError for what can't be the beginning of a bundle's hash."""
    if beginning is not None and not _HASH.fullmatch(beginning):
        raise UsageError(
            f"the hash to return to is {beginning!r}", valid="6 to 64 of the digits 0-9 and a-f", fix="Correct --to"
        )


def check_trust(bundle: Bundle, devices: Iterable[Device]) -> None:
    """Raise SignatureError or BundleError unless every device's key, where there is one, signed the bundle."""
    keys = {device.trust: device.name for device in devices if device.trust}
    for pem, device in keys.items():
        read_signed_bundle(bundle.path, parse_public_key(pem.encode(), f"the key of device '{device}'"))


def refuse_other_key(device: Device, known: AppsAnswer) -> None:
    """Raise BundleRefusedError if a device has a key, and this machine has none or another one for it."""
    if known.trust is None or known.trust == device.trust:
        return
    if device.trust is not None:
        error = other_key(known.trust, device.trust, known.folder)
        raise BundleRefusedError(f"{device.name}: {error.problem}", valid=error.valid, fix=error.fix)
    raise BundleRefusedError(
        f"{device.name}: the device takes only bundles signed with the key {fingerprint_of(known.trust)}",
        fix=f"Run `edgekit devices remove {device.name}`, then `edgekit devices add {device.name} URL --trust FILE`",
    )


def bound_for(bundle: Bundle, device: Device, max_p99: float | None, threads: int | None) -> LatencyBound:
    """The bound of the latency: `max_p99` in ms, where 0 accepts any, or what the report of the bundle's run allows.

    The report's row is that of the device, or else of another one of its class. Raises UsageError if there is none, or
    if it was timed with another number of threads.
    """
    if max_p99 is not None:
        return LatencyBound(max_p99 or None, threads, "the value of --max-p99")
    row = _row_of(bundle, device)
    if row is not None and row.latency_ms is not None and threads in (None, row.latency_ms.threads):
        p99 = row.latency_ms.p99
        return LatencyBound(
            MARGIN * p99, row.latency_ms.threads, f"{MARGIN} times the p99 of {row.device.name} in the report"
        )
    other = f"with {threads} threads" if row is not None else "on this device or its class"
    raise UsageError(
        f"{device.name}: there is no p99 to compare '{bundle.path}' with: no report next to it timed it {other}",
        valid="--max-p99 MS, where 0 accepts any latency, or a bundle in a run folder whose report has such a row",
        fix=f"Give --max-p99, or run `edgekit deploy` with --device {device.name}",
    )


def push_to(device: Device, bundle: Bundle, app: str, bound: LatencyBound, reporter: Reporter) -> PushedDevice:
    """Copy a bundle to a device, try it there, and make it the app's active one if it passes.

    The device is connected, its runtime is set up and the bundle is compared with its processor before it is copied.
    """

    def push(board: Board, known: AppsAnswer) -> PushedDevice:
        refuse_other_processor(device.name, bundle, board.facts)
        if board.facts.emulated:
            reporter.warn(f"{device.name}: QEMU emulates the processor, so its times are not comparable")
        manifest, name = bundle.manifest, bundle.path.resolve().name
        python = board.ready(manifest.target, manifest.engine["minimum"], {name: bundle.size_bytes})
        signature = bundle.path / SIGNATURE
        files = [*files_of(bundle), *([signature] if signature.is_file() else [])]
        before = board.connection.copied_bytes
        with board.copying():
            sent = board.send({name: files})[name]
        total, copied = sum(path.stat().st_size for path in files), board.connection.copied_bytes - before
        rest = ", the rest was there" if copied < total else ""
        reporter.say(f"{device.name}: sent {copied / 1e6:.1f} of {total / 1e6:.1f} MB{rest}")
        job = PushJob(
            **board.place,
            timing=Timing(threads=bound.threads),
            bundle=name,
            files=sent,
            sha256=bundle.sha256,
            folder=f"{known.folder}/{app}",
            expected=_active(known),
            max_p99_ms=bound.max_p99_ms,
            bound=bound.origin,
            trust=device.trust,
        )
        answer = run_agent(board.connection, python, job, Slotted, reporter)
        return replace(_outcome(device, answer), bundle_bytes=total, copied_bytes=copied)

    return _with_app(device, app, reporter, push)


def roll_back(device: Device, app: str, reporter: Reporter, to: str | None = None) -> PushedDevice:
    """Make a bundle in an app's slots active again, unless it is: by default the one that the last push replaced.

    `to` is the beginning of another one's hash. The device compares names and sizes of the files, and switches. That
    takes no environment and no trial, and waits for no measurement.
    """

    def switch(board: Board, known: AppsAnswer) -> PushedDevice:
        record = _bundle_to_return_to(device, known, app, to)
        python, expected = python_of(device.name, board.facts).path, _active(known)
        request = {"roll_back": app, "expected": expected, "target": record.sha256, "trust": device.trust}
        answer = board.connection.ask(python, APPS, request, Slotted, "the rollback")
        if answer.refusal is None and record.sha256 == expected:
            reporter.say(f"{device.name}: {record.bundle} {record.sha256[:HASH_DIGITS]} was active already")
        return _outcome(device, answer)

    return _with_app(device, app, reporter, switch)


def _bundle_to_return_to(device: Device, known: AppsAnswer, app: str, to: str | None) -> SlotRecord:
    """The record of the bundle that a rollback makes active. Raises BundleRefusedError."""
    status = f"`edgekit devices status {device.name}` shows the apps there; `edgekit push` brings a bundle"
    state = known.apps[0] if known.apps else None
    wanted = to or (state.returns_to if state else None)
    if state is None or wanted is None:
        raise BundleRefusedError(f"{device.name}: the app '{app}' has no bundle to return to", fix=status)
    records = [slot.record for slot in (state.active, state.previous) if slot and slot.record]
    matching = {record.sha256: record for record in records if record.sha256.startswith(wanted)}
    if len(matching) != 1:
        raise BundleRefusedError(
            f"{device.name}: {len(matching) or 'no'} bundles of the app '{app}' there have a hash that begins with "
            f"{to or wanted[:HASH_DIGITS]}",
            valid=", ".join(f"{record.sha256[:HASH_DIGITS]} ({record.bundle})" for record in records),
            fix=status,
        )
    return next(iter(matching.values()))


def _active(known: AppsAnswer) -> str | None:
    """Hash of the active bundle of the app that a device was asked for."""
    active = known.apps[0].active if known.apps else None
    return active.sha256 if active else None


def refuse_other_processor(device: str, bundle: Bundle, facts: ProbeResult) -> None:
    """Raise BundleRefusedError if the device lacks CPU features of the device class that a bundle was made for.

    The classes that users write themselves are not in a bundle, so only shipped ones are compared.
    """
    name = bundle.manifest.device_class
    if name not in DeviceClass.listed() or facts.features is None:
        return
    missing = set(DeviceClass.load(name).instruction_set) - set(facts.features)
    if missing:
        fits = facts.matching_class
        again = f"--device-class {fits}" if fits else f"--device {device}"
        raise BundleRefusedError(
            f"{device}: '{bundle.path}' was made for {name}, but this {facts.machine} processor lacks "
            f"{', '.join(sorted(missing))}",
            fix=f"Make the bundle again with `edgekit deploy` and {again}",
        )


def _row_of(bundle: Bundle, device: Device) -> Row | None:
    """The row of a bundle in the report of its run folder, on this device or another one of its class."""
    run = bundle.path.resolve().parent
    if not (run / REPORT_FILE).is_file():
        return None
    name = bundle.path.resolve().name
    rows = [row for row in load_report(run).results if row.bundle == name and row.latency_ms]
    wanted = device.device_class or bundle.manifest.device_class
    alike = (row for row in rows if row.device.device_class == wanted and not row.device.emulated)
    return next((row for row in rows if row.device.name == device.name), next(alike, None))


def _with_app(
    device: Device, app: str, reporter: Reporter, work: Callable[[Board, AppsAnswer], PushedDevice]
) -> PushedDevice:
    """Work with an app on a connected device. An error is the outcome, unless it concerns the whole command."""
    known: AppsAnswer | None = None
    try:
        with open_board(device, reporter) as board:
            known = board.ask_apps(app)
            refuse_other_key(device, known)
            return work(board, known)
    except BundleRefusedError as error:
        return _failed(device, "fail", error, known.apps[0] if known and known.apps else None)
    except Exception as error:
        if not costs_a_row(error):
            raise
        child_process.check()  # an interrupt makes the main thread close the connections, which is not an error
        if not isinstance(error, StageError):
            reporter.failed(f"{device.name}: the push", error)
        return _failed(device, "error", error)


def _outcome(device: Device, answer: Slotted) -> PushedDevice:
    if answer.refusal is None:
        return PushedDevice(device=device.name, verdict="pass", trial=answer.trial, app=answer.app)
    return replace(_failed(device, "fail", answer.refusal.rebuilt(), answer.app), trial=answer.trial)


def _failed(
    device: Device, verdict: Literal["fail", "error"], error: Exception, app: AppState | None = None
) -> PushedDevice:
    failure = Failure.of("device", error)
    return PushedDevice(device=device.name, verdict=verdict, reasons=(failure.message,), failure=failure, app=app)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what the devices had answered."""

    def __init__(self, pushed: Pushed) -> None:
        super().__init__()
        self.pushed = pushed


def roll_out(
    pushed: Pushed, devices: Sequence[Device], push: Callable[[Device], PushedDevice], canary: int, parallel: int
) -> Pushed:
    """Push to the first `canary` devices, and then to the others, at most `parallel` at a time. Completes the document.

    When one of a push doesn't pass, no other begins. Raises Interrupted.
    """
    results = {device.name: PushedDevice(device=device.name, verdict=None) for device in devices}

    def push_unless_stopped(device: Device) -> None:
        if pushed.sha256 is None or all(result.verdict in ("pass", None) for result in results.values()):
            results[device.name] = replace(results[device.name], reasons=("the command was interrupted",))
            results[device.name] = push(device)

    try:
        for group in (devices[:canary], devices[canary:]):
            in_threads(group, push_unless_stopped, parallel)
    except KeyboardInterrupt:
        raise Interrupted(replace(pushed, results=tuple(results.values()))) from None
    return replace(pushed, results=tuple(results.values()))


def push_bundle(
    path: Path,
    names: Iterable[str],
    app: str,
    reporter: Reporter,
    *,
    max_p99: float | None,
    threads: int | None,
    wheels: Path | None,
    canary: int,
    parallel: int,
) -> Pushed:
    """Push a bundle to the devices with these names, as the active bundle of an app; see `bound_for` and `roll_out`."""
    check_app(app)
    devices = [find_remote(name, wheels) for name in dict.fromkeys(names)]
    bundle = read_bundle(path)
    check_trust(bundle, devices)
    bounds = {device: bound_for(bundle, device, max_p99, threads) for device in devices}
    pushed = Pushed(app=app, sha256=bundle.sha256, results=())
    return roll_out(
        pushed, devices, lambda device: push_to(device, bundle, app, bounds[device], reporter), canary, parallel
    )


def roll_back_devices(names: Iterable[str], app: str, reporter: Reporter, to: str | None = None) -> Pushed:
    """Make a bundle of an app active again on devices, in parallel. One that fails doesn't stop the others."""
    check_app(app)
    check_hash(to)
    devices = [find_remote(name) for name in dict.fromkeys(names)]
    pushed = Pushed(app=app, sha256=None, results=())
    return roll_out(pushed, devices, lambda device: roll_back(device, app, reporter, to), 0, len(devices))


def status_of(names: Iterable[str] | None, reporter: Reporter) -> Status:
    """Ask the devices with these names, or all saved ones, for their apps, in parallel."""
    devices = [find_remote(name) for name in dict.fromkeys(names or saved_machines())]

    def ask(device: Device) -> Sequence[DeviceStatus]:
        try:
            with open_board(device, reporter) as board:
                answer = board.ask_apps(hashes=True)
        except DeviceError as error:
            child_process.check()  # an interrupt makes the main thread close the connections, which is not an error
            return [DeviceStatus(device=device.name, url=device.url, failure=Failure.of("device", error))]
        free = answer.disk_free_bytes
        return [DeviceStatus(device=device.name, url=device.url, disk_free_bytes=free, apps=answer.apps)]

    return Status(devices=tuple(each_device(devices, ask)))
