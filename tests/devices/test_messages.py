"""Jobs and messages survive encoding and decoding, other lines are recognized, and progress is shown."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any, get_args

import pytest
from msgspec import ValidationError, convert, to_builtins

from edgekit.devices.messages import AgentJob, AppState, InspectJob, MeasureJob, PushJob, SentImages, Slot, Slotted
from edgekit.errors import BundleError, StageError, all_printable
from edgekit.measure.inspect_bundle import BundleInspection, Int8Detail, ModelInspection
from edgekit.measure.settings import Timing
from edgekit.report.figure import EndToEnd, Sample, Throttling
from edgekit.report.row import (
    Int8,
    LowPrecision,
    Measurement,
    RatedLatency,
    Sustained,
    SustainedLatency,
    SustainedPoint,
)
from edgekit.runtime.profile import OpProfile
from edgekit.support import worker
from edgekit.support.progress import BugElsewhere, Reporter, Step
from edgekit.support.worker import Call, Outcome, SentError, Worker, decode, encode
from tests.helpers.measurements import (
    accuracy,
    conditions,
    device,
    failed,
    latency,
    machine_state,
    measurement,
    speedup,
)
from tests.helpers.reports import CAMERA, CHANGES, ENERGY, INT8_TIMES, THROUGHPUT
from tests.helpers.slots import TRIAL, record

ODD_NAME = "böse 'name' \udcff\n$(x)"
"""A possible folder name: not ASCII, and with a byte that is not UTF-8."""


def every_figure() -> Measurement:
    """A measurement in which only the failure is None."""
    window = SustainedLatency(5.0, 6.0, 7.0, 100)
    state = machine_state(
        clock_mhz=2400.0, celsius=48.25, load=0.5, throttled=Throttling(0x50004, ("throttled",), ("under-voltage",))
    )
    return measurement(
        engine="onnxruntime 1",
        bundle=ODD_NAME,
        scheme="w8a8",
        macs=10**12,
        accuracy=accuracy(0.1 + 0.2, changes=CHANGES),
        snr_db=33.25,
        latency_ms=latency(1 / 3),
        end_to_end_ms=EndToEnd(12.5),
        int8=Int8(share_of_macs=0.9, method="x", float_layers=("stem", "head"), simulated=False),
        profile=INT8_TIMES,
        limit=RatedLatency(1.5, 0.15),
        peak_rss_bytes=2**40,
        speedup_f32=speedup(2.5, 2.4, 2.6),
        low_precision=LowPrecision(computes_in="f16", accuracy=accuracy(0.0), p50_ms=8.0),
        thermal=conditions(before=state, after=state, series=(Sample(1.0, 2400.0, 48.25, ("throttled",)),)),
        sustain=Sustained(
            seconds=600.0,
            window_s=60.0,
            first=window,
            last=window,
            change=-0.01,
            series=(SustainedPoint(0.0, 5.0, 10),),
        ),
        energy=ENERGY,
        throughput=THROUGHPUT,
        camera=CAMERA,
    )


def detail() -> Int8Detail:
    return Int8Detail(
        share_of_macs=0.5,
        method="x",
        float_layers=("stem",),
        simulated=False,
        total_macs=10,
        int8_macs=5,
        time_by_kind_ms={"conv int8": 1.5},
        ops=(OpProfile("stem", "k", 5, False, 0.1, "not quantized in the file", False), OpProfile("b", "k", 5, True)),
    )


def bundle_inspection() -> BundleInspection:
    return BundleInspection(
        bundle=ODD_NAME,
        target="onnx",
        precision="int8",
        scheme="w8a8",
        model=None,
        input_shape=(1, 3, 32, 32),
        classes=10,
        device_class="raspberry-pi-5",
        size_bytes=1,
        engine="onnxruntime 1",
        made_with="onnxruntime 0.9",
        golden_max_abs_difference=0.25,
        golden_tolerance=0.5,
        golden_passed=False,
        int8=detail(),
        provenance={"model": {"name": "tiny", "weights": None}, "layers": [1, 2.5, True]},
        device=device("pi", emulated=True),
    )


def slotted() -> AppState:
    """An app with an active bundle, and a damaged one that no trial was recorded of."""
    active = Slot("a", "12" * 32, record(ODD_NAME, {"manifest.json": "12" * 32}), None)
    return AppState(
        name="door",
        path=f"/home/{ODD_NAME}/edgekit-apps/door/current",
        trust="/home/pi/edgekit-apps/trust.pem",
        verdict="pass",
        since="2026-11-28T23:00:00Z",
        active=active,
        previous=Slot("b", None, None, "the bundle has no record of a trial"),
        returns_to="34" * 32,
    )


CALLS = [
    Call("warn", ("Wärme\n\udcff",)),
    Call("say", ("Wärme\n\udcff",)),
    Call("bug", ("onnx-int8", "KeyError", "KeyError: 'val'", "Traceback …\nKeyError: 'val'")),
    Call("stage", ("onnx-int8: evaluate", 20)),
    Call("stage", ("copy", None)),
    Call("step", (0.5,)),
    Call("alive", (1.5,)),
]
RESULTS: list[tuple[Any, Any]] = [
    ([], list[Measurement]),
    ([every_figure(), failed("benchmark", on=device("pi"))], list[Measurement]),
    (bundle_inspection(), BundleInspection),
    (ModelInspection(model="m.onnx", size_bytes=1, int8=replace(detail(), time_by_kind_ms=None)), ModelInspection),
    (Slotted(slotted()), Slotted),
    (Slotted(slotted(), TRIAL, SentError("GoldenError", "it differs", "at most 0.1", "")), Slotted),
]
ANSWERS = [Outcome(to_builtins(result)) for result, _ in RESULTS] + [
    Outcome(error=SentError("BundleError", "it is damaged", fix="Copy it again")),
    Outcome(error=SentError("KeyError", "KeyError: 'val'", traceback="Traceback …\nKeyError: 'val'", bug=True)),
]
MESSAGES: list[Call | Outcome] = [*CALLS, *ANSWERS]


def test_a_device_controls_no_terminal() -> None:
    said = Call("say", ("a\x1b[2J\x9bb",))
    assert decode(encode(said)) == Call("say", ("a\N{REPLACEMENT CHARACTER}b",))
    assert decode(encode(Call("stage", ("\x1b[8mcopy", 2)))) == Call("stage", ("copy", 2))


def test_every_kind_of_message_is_tried() -> None:
    assert {call.name for call in CALLS} == set(worker.CALLS)
    figures = every_figure()
    assert [name for name in Measurement.__dataclass_fields__ if getattr(figures, name) is None] == ["failure"]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Call | Outcome) -> None:
    line = encode(message)
    assert decode(line) == convert(all_printable(json.loads(json.dumps(to_builtins(message)))), Call | Outcome)
    assert type(decode(line)) is type(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1, "a message is one line"
    assert line.isascii(), "the encoding on the device must not matter"


@pytest.mark.parametrize(("result", "kind"), RESULTS)
def test_a_result_survives_the_wire(result: Any, kind: Any) -> None:
    answer = decode(encode(Outcome(to_builtins(result))))
    assert isinstance(answer, Outcome)
    assert convert(answer.value, kind) == convert(all_printable(json.loads(json.dumps(to_builtins(result)))), kind)


def test_an_error_survives_the_wire() -> None:
    sent = SentError.of(BundleError("it is damaged", valid="a whole one", fix="Copy it again"))
    error = sent.rebuilt()
    assert type(error) is BundleError
    assert (error.problem, error.valid, error.fix) == ("it is damaged", "a whole one", "Copy it again")
    bug = SentError.of(KeyError("val")).rebuilt()
    assert isinstance(bug, BugElsewhere)
    assert (bug.kind, str(bug)) == ("KeyError", "KeyError: 'val'")
    assert type(SentError("re", "of another version").rebuilt()) is StageError


PLACE: dict[str, Any] = {
    "name": "pi", "device_class": "raspberry-pi-5", "cache": "/home/pi/.cache/edgekit",
    "timing": Timing(threads=2, sustain_s=600.0, streams=4, camera=(1920, 1080)),
}  # fmt: skip
FILES = {"model.onnx": "0" * 64}
JOBS: list[AgentJob] = [
    MeasureJob(
        **PLACE,
        bundles={ODD_NAME: FILES},
        images=SentImages(pixels="ab", reference="cd", files=("cd", "ef"), names=("a.jpg", ODD_NAME)),
    ),
    MeasureJob(**PLACE, bundles={ODD_NAME: FILES}),
    InspectJob(**PLACE, path=ODD_NAME, files=FILES),
    PushJob(**PLACE, bundle=ODD_NAME, files=FILES, sha256="12", folder="/home/pi", expected=None, max_p99_ms=1.5),
]


def test_every_kind_of_job_is_tried() -> None:
    assert {type(job) for job in JOBS} == set(get_args(AgentJob))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_survives_the_wire(job: AgentJob) -> None:
    assert convert(json.loads(encode(job)), AgentJob) == job


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_line_that_was_cut_is_no_message(message: Call | Outcome) -> None:
    line = encode(message)
    for end in {1, len(line) // 2, len(line) - 2}:
        assert decode(line[:end]) is None


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"warning: something a library printed\n",
        b"\xff\xfe\n",
        b'{"type":"call","name":"say","args":["\xc3',  # cut inside a character
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"type":"unheard of"}\n',
        b'{"type":"call","name":"console","args":[]}\n',
        b'{"type":"call","name":"step","args":["many"]}\n',
        b'{"type":"call","name":"stage","args":["copy"]}\n',
        b'{"type":"answer","error":{}}\n',
    ],
)
def test_other_lines_are_recognized(line: bytes) -> None:
    assert decode(line) is None


def test_a_row_without_a_figure_and_without_a_failure_is_refused() -> None:
    """Types alone would accept it. The rule of Measurement also applies to answers from a device."""
    (row,) = to_builtins([measurement()])
    convert(row, Measurement)
    with pytest.raises(ValidationError):
        convert({**row, "size_bytes": None}, Measurement)


class Recorder(Reporter):
    """Stores the steps of each stage."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.stages: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        amounts = self.stages[f"{title}: {total}"] = []
        yield lambda amount=1: amounts.append(amount)


def test_steps_arrive_in_parts() -> None:
    begun, part, rest = Call("stage", ("calibrate", 8)), Call("step", (0.25,)), Call("step", (7.75,))
    calls = [begun, part, rest, Call("stage", ("time", 2)), Call("step", (2.0,))]
    lines = [*map(encode, calls), b"printed by a library\n", encode(Outcome(7))]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        recorder = Recorder()
        process.stdout = BytesIO(b"".join(lines))
        assert Worker(process, "pi5: ").ask({}, recorder) == Outcome(7)
        process.stdout = BytesIO(b"".join(lines[:-1]))
        assert Worker(process).ask({}, recorder) is None
        assert process.stdin
        process.stdin.close()
    assert recorder.stages == {
        "pi5: calibrate: 8": [0.25, 7.75], "pi5: time: 2": [2], "calibrate: 8": [0.25, 7.75], "time: 2": [2]
    }  # fmt: skip
