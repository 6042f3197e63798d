"""The answers of `edgekit push`, `rollback` and `devices status` as lines of text."""

from collections.abc import Iterator

from edgekit.cli.output import answer_width, wrapped
from edgekit.devices.app_state import AppState, Slot
from edgekit.devices.push import HASH_DIGITS, Pushed, PushedDevice, Status
from edgekit.report.figure import NOTHING, counted
from edgekit.report.table import Column, lines_of

APP_KEY = "/etc/edgekit/trust.pem"
"""Place of an app's copy of the public key in examples: only root can write there."""


def pushed_lines(pushed: Pushed) -> Iterator[str]:
    """A table of what each device has now, the reasons of those that didn't pass, and how an app loads the bundle."""
    results = pushed.results
    yield from lines_of(
        [
            Column("", [result.device for result in results], left=True),
            Column(
                "verdict",
                [result.verdict or ("unknown" if result.reasons else "not begun") for result in results],
                left=True,
            ),
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
        yield f"An app loads it with edgekit.load({path!r}{f', trust={APP_KEY!r}' if trust else ''})."
        if trust:
            text = (
                "Whoever may push can write the device's own copy of it, so an app needs one that only root can write"
            )
            yield from wrapped(f"Copy the public key to {APP_KEY} as root. {text}.", answer_width())
    if waiting := [result.device for result in results if result.verdict is None]:
        yield from wrapped(f"See what the others have: edgekit devices status {' '.join(waiting)}", answer_width())


def _ms(result: PushedDevice, key: str) -> str:
    return f"{getattr(result.trial, key):.2f}" if result.trial else NOTHING


def _active(result: PushedDevice) -> str:
    if result.app is None:
        return NOTHING if result.verdict == "fail" else "unknown"
    return _bundle(result.app.active)


def _bundle(slot: Slot | None) -> str:
    """The name and the beginning of the hash of the bundle in a slot."""
    if slot is None:
        return NOTHING
    return f"{slot.record.bundle} {slot.record.sha256[:HASH_DIGITS]}" if slot.record else "unknown"


NO_DEVICES = "no devices: add one with edgekit devices add NAME ssh://USER@HOST"


def status_lines(status: Status) -> Iterator[str]:
    """A paragraph for each app on each device."""
    if not status.devices:
        yield NO_DEVICES
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
