"""Reports and their parts with plausible figures. A test changes what it is about, by keyword or with `replace`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from edgekit.config.runtimes import Precision
from edgekit.report import answer_lines
from edgekit.report.answer import Benchmark
from edgekit.report.document import (
    Calibration,
    EvaluatedClass,
    Evaluation,
    Model,
    PreprocessingFacts,
    Recommendation,
    Reference,
    Report,
    Unreadable,
)
from edgekit.report.figure import (
    Camera,
    Conditions,
    DeviceFacts,
    EndToEnd,
    Interval,
    MachineState,
    Preparation,
    Sample,
    Throughput,
)
from edgekit.report.row import (
    Accuracy,
    ChangedImage,
    ClassChange,
    Energy,
    Failure,
    Gate,
    Int8,
    Latency,
    RatedLatency,
    Row,
    Speedup,
    TimedKind,
    TimedLayer,
    TimeProfile,
)

STATE = MachineState(
    clock_mhz=2400.0,
    clock_max_mhz=2400.0,
    governor="performance",
    celsius=48.2,
    throttled=None,
    throttle_events=None,
    cooling_state=0,
    load=0.3,
)
"""A machine before it has warmed up."""
CONDITIONS = Conditions(
    before=STATE,
    after=replace(STATE, celsius=61.0),
    seconds=3.1,
    series=tuple(Sample(s, 2400.0, 50.0 + s, ()) for s in (1.0, 2.0, 3.0)),
    throttled=(),
    cpus=4,
    other_cpus=0.05,
)
"""A quiet machine that warms up by 13 degrees."""
ENERGY = Energy(
    inference_mj=41.25, source="vcgencmd pmic_read_adc", idle_w=2.75, load_w=6.5, seconds=2.2, inferences=200
)
"""Energy of an inference on a Raspberry Pi 5."""
THROUGHPUT = Throughput(streams=4, threads=1, images_per_second=310.4, p50_ms=12.5, p99_ms=15.25, count=801)
"""Throughput of four streams."""
CAMERA = Camera(
    width=1920,
    height=1080,
    preparation=Preparation(decode=1.1, resize=6.3, normalize=0.2),
    p50_ms=15.4,
    frames_per_second=64.6,
    frames_per_second_ahead=128.9,
)
"""Frames of a camera in full HD."""
FLOAT_TIMES = TimeProfile(
    kinds=(TimedKind("MatMul float", 9.0), TimedKind("Conv float", 4.0), TimedKind("Add", 1.2)),
    layers=(TimedLayer("stages.0.fc1", "sgemm", False, 5.0), TimedLayer("stem.0", "sconv", False, 4.0)),
    sum_ms=14.2,
)
INT8_TIMES = TimeProfile(
    kinds=(
        TimedKind("Conv float", 4.0),
        TimedKind("QLinearMatMul int8", 3.0),
        TimedKind("Add", 1.2),
        TimedKind("QuantizeLinear", 1.0),
    ),
    layers=(TimedLayer("stem.0", "sconv", False, 4.0), TimedLayer("stages.0.fc1", "igemm", True, 1.0, around_ms=0.5)),
    sum_ms=9.2,
    conversion_ns=0.5,
)
"""Times of a float and of an INT8 bundle, whose sum is within 10 % of the latency for the float one alone."""
CHANGES = (
    ClassChange(
        label="cat",
        images=1_000,
        reference_right=800,
        right=780,
        flipped=42,
        examples=(ChangedImage("cat/0007.jpg", "cat", "dog"), ChangedImage("cat/0009.jpg", "fox", "cat")),
    ),
    ClassChange(label="dog", images=900, reference_right=700, right=704, flipped=11),
)
"""Two classes with changed predictions, the worst first."""
PREPROCESSING = PreprocessingFacts(
    height=224,
    width=224,
    interpolation="bicubic",
    crop_pct=0.875,
    crop_mode="center",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
MODEL = Model(
    name="convnextv2_atto",
    source="timm",
    weights="fcmae_ft_in1k",
    weights_sha256="ab" * 32,
    params=3_708_400,
    macs=550_000_000,
    input_shape=(1, 3, 224, 224),
    classes=1000,
    accuracy_meaningful=True,
)
RANDOM_MODEL = replace(MODEL, weights="random", accuracy_meaningful=False)


def device(name: str = "local", **changes: Any) -> DeviceFacts:
    """The facts of a machine with two cores."""
    facts: dict[str, Any] = {"device_class": "x86-64-v4", "cpu": "AMD EPYC", "cores": 2, "memory_bytes": 8 * 2**30}
    return DeviceFacts(name=name, **facts | changes)


def accuracy(drop: float = 0.09, interval: Interval = (-0.11, 0.29), **changes: Any) -> Accuracy:
    """Accuracy on 10,000 images, `drop` points below a reference of 76.64 %."""
    won = 48 if drop else 0
    whole = Accuracy(
        top1=0.7664 - drop / 100,
        top5=0.9304,
        count=10_000,
        drop_top1_points=drop,
        drop_ci95_points=interval,
        agreement=0.985 if drop else 1.0,
        right_to_wrong=won + round(100 * drop),
        wrong_to_right=won,
        mcnemar_p=0.43 if drop else 1.0,
        versus="reference",
    )
    return replace(whole, **changes)


def latency(p50: float = 7.7, **changes: Any) -> Latency:
    """200 timed runs around a median of `p50` ms."""
    whole = Latency(
        p5=p50 * 0.97,
        p25=p50 * 0.99,
        p50=p50,
        p75=p50 * 1.02,
        p90=p50 * 1.05,
        p95=p50 * 1.1,
        p99=p50 * 1.2,
        mean=p50 * 1.01,
        std=0.2,
        spread=0.02,
        count=200,
        threads=1,
        load=210.0,
        first=p50 * 3,
    )
    return replace(whole, **changes)


def gates(drop: Literal["pass", "fail", "inconclusive"] = "pass", reasons: tuple[str, ...] = ()) -> tuple[Gate, ...]:
    """The gates of an int8 row: this outcome for the drop, a pass for the speed-up, and no demand on the timing."""
    return (
        Gate(name="max-drop", verdict=drop, figure="accuracy.drop_top1_points", limit=1.0, reasons=reasons),
        Gate(name="min-speedup", verdict="pass", figure="speedup.ratio", limit=1.0),
        Gate(name="steady-timing", verdict="skipped", reasons=("no speed-up was stated",)),
    )


def row(target: str = "openvino", precision: Precision = "int8", p50: float = 7.7, **changes: Any) -> Row:
    """A row that passed, on this machine."""
    int8 = precision == "int8"
    bound_ms = 2.32 if int8 else 9.29
    whole = Row(
        target=target,
        precision=precision,
        device=device(),
        bundle=f"{target}-{precision}",
        scheme="static w8a8, per-channel weights, dense layers" if int8 else "float32",
        size_bytes=4_310_000 if int8 else 14_900_000,
        macs=550_000_000,
        accuracy=accuracy() if int8 else accuracy(0.0, (0.0, 0.0)),
        snr_db=33.4 if int8 else 118.2,
        latency_ms=latency(p50),
        end_to_end_ms=EndToEnd(
            p50 + 3.1,
            images=Preparation(decode=1.9, resize=1.0, normalize=0.2),
            photo=Preparation(decode=97.5, resize=13.2, normalize=0.2),
            frame=Preparation(decode=1.1, resize=6.3, normalize=0.2),
        ),
        speedup=Speedup(versus=f"{target}-float", ratio=1.88, ci95=(1.86, 1.90)) if int8 else None,
        int8=Int8(
            share_of_macs=0.957 if int8 else 0.0,
            method="executed graph",
            float_layers=("stem.0",) if int8 else (),
            simulated=False,
        ),
        limit=RatedLatency(bound_ms, bound_ms / p50),
        peak_rss_bytes=121_000_000,
        thermal=CONDITIONS,
        verdict="pass",
        gates=gates() if int8 else (),
    )
    return replace(whole, **changes)


def failed_row(target: str = "onnx", precision: Precision = "int8", **changes: Any) -> Row:
    """A row without figures, because its compiler refused the graph."""
    failure = Failure("compile", "CompileError", "onnxruntime refused node 'MatMul_3' [opset 21]")
    whole = Row(
        target=target,
        precision=precision,
        device=device(),
        failure=failure,
        verdict="error",
        reasons=(str(failure),),
    )
    return replace(whole, **changes)


ROWS = (
    row("openvino", "float", 14.5),
    row("openvino", "int8", 7.7),
    row("onnx", "float", 16.7),
    failed_row("onnx", "int8"),
    row("tflite", "float", 14.1),
    row(
        "tflite",
        "int8",
        7.52,
        accuracy=accuracy(1.31, (0.92, 1.70)),
        verdict="fail",
        reasons=("drop of 1.31 points is more than --max-drop 1.0",),
        gates=gates("fail", ("drop of 1.31 points is more than --max-drop 1.0",)),
    ),
)
"""Six rows: one failed a gate, and a compiler refused one."""
BEST = 1
"""Index in ROWS of openvino-int8, which `report` recommends."""
FAILED = 3
"""Index in ROWS of onnx-int8, which has no figures."""


def report(**changes: Any) -> Report:
    """A whole report of ROWS, which recommends openvino-int8."""
    whole = Report(
        edgekit="0.1.0",
        created="2026-01-01T00:00:00Z",
        command=("deploy", "convnextv2_atto", "--data", "images.zip"),
        model=MODEL,
        calibration=Calibration(count=128, sha256="cd" * 32, seed=0, recipe="convnextv2"),
        evaluation=Evaluation(
            count=10_000,
            sha256="ef" * 32,
            overlap_with_calibration=0,
            unreadable=(Unreadable("a/b.jpg", "truncated"),),
        ),
        reference=Reference(engine="torch", top1=0.7664, top5=0.9304),
        results=ROWS,
        recommendation=Recommendation("local", "openvino-int8", "the fastest of those that passed every gate"),
    )
    return replace(whole, **changes)


def report_with(index: int, **changes: Any) -> Report:
    """The report with one of its rows changed."""
    rows = list(ROWS)
    rows[index] = replace(rows[index], **changes)
    return report(results=tuple(rows))


def by_class(whole: Report, reference: Sequence[int], **bundles: Sequence[int]) -> Report:
    """The report on 100 images of each class, of which the reference and each `TARGET_PRECISION` get these right."""
    classes = tuple(EvaluatedClass(f"class {index}", 100) for index in range(len(reference)))
    rows = [
        replace(row, accuracy=replace(row.accuracy, right_by_class=tuple(bundles[key])))
        if row.accuracy and (key := f"{row.target}_{row.precision}") in bundles
        else row
        for row in whole.results
    ]
    return replace(
        whole,
        evaluation=replace(whole.evaluation, classes=classes),
        reference=replace(whole.reference, right_by_class=tuple(reference)),
        results=tuple(rows),
    )


def answered(whole: Report, width: int = 80) -> str:
    """The answer of a report on a terminal of this width."""
    return "".join(f"{line}\n" for line in answer_lines(whole, width))


def benchmark(*rows: Row) -> Benchmark:
    """The document of `edgekit benchmark` with these rows."""
    return Benchmark(device=rows[0].device, results=rows)
