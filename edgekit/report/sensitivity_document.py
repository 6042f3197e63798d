"""sensitivity.json: the accuracy that each layer costs in INT8 and the time that it saves, as a table and a picture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from edgekit.config.runtimes import LayerKind
from edgekit.report.figure import MEANINGLESS, NOTHING, Count, Fraction, Interval, NotNegative, points
from edgekit.report.page import Block, Column, NextStep, Paragraph, TextTable
from edgekit.report.plot import Panel, Picture, bar, render_svg
from edgekit.support.run_folder import keeps_job


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Accuracy of a mixture of INT8 and float layers, simulated in torch and compared with all layers in float."""

    snr_db: float | None
    """Signal-to-noise ratio of the logits, in decibels; null where they are equal."""
    drop_top1_points: float
    """Top-1 lost against all layers in float, in percentage points."""
    drop_ci95_points: Interval
    """95 % interval of the drop, in percentage points."""
    agreement: Fraction
    """Share of images with the same predicted class as with all layers in float."""

    def spared(self, whole: "Simulated") -> "Spared":
        """The same with its gain over all layers in INT8."""
        gain = None if self.snr_db is None or whole.snr_db is None else self.snr_db - whole.snr_db
        points = whole.drop_top1_points - self.drop_top1_points
        return Spared(**vars(self), snr_gain_db=gain, gain_top1_points=points)


@dataclass(frozen=True, kw_only=True)
class Spared(Simulated):
    """Accuracy with one layer or block in float, and its gain over all layers in INT8."""

    snr_gain_db: float | None
    """Signal-to-noise ratio gained over all layers in INT8, in decibels; null where one of them is infinite."""
    gain_top1_points: float
    """Top-1 gained over all layers in INT8, in percentage points."""


@dataclass(frozen=True)
class LayerTime:
    """Time of a layer or block with what surrounds it, from the runtime's profiler."""

    float_ms: float
    """Time in the float bundle, in milliseconds."""
    int8_ms: float
    """Time in the INT8 bundle, in milliseconds."""
    saved_ms: float
    """Time that INT8 saves, with the conversions that it spares; below 0 if it takes longer, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Sensitive:
    """Sensitivity of a layer or block: alone in INT8, alone in float, its share of the noise, and its time."""

    name: str
    """Name of the layer or block."""
    macs: Count
    """Number of its multiply-accumulates in one inference."""
    only_int8: Simulated
    """Accuracy with only this layer or block in INT8."""
    only_float: Spared
    """Accuracy with only this layer or block in float."""
    noise_share: NotNegative
    """Noise with only this layer or block in INT8, as a share of the sum over all layers."""
    time: LayerTime | None = None
    """Its time in float and in INT8; null where the profiler reports none."""


@dataclass(frozen=True, kw_only=True)
class SensitiveLayer(Sensitive):
    """Sensitivity of one layer."""

    block: str
    """Name of the block that contains the layer."""


@dataclass(frozen=True, kw_only=True)
class SensitiveBlock(Sensitive):
    """Sensitivity of one block: all of its layers together."""

    layers: tuple[str, ...]
    """Names of the block's layers."""


@dataclass(frozen=True)
class Culprits:
    """The noisiest layers that must stay in float to keep the drop within the bound."""

    layers: tuple[str, ...]
    """Names of the layers that must stay in float."""
    then: Simulated
    """Accuracy with these layers in float."""


@dataclass(frozen=True)
class FloatAccuracy:
    """Accuracy with all layers in float."""

    top1: Fraction
    """Share of images whose highest-scoring class is the right one."""


@dataclass(frozen=True, kw_only=True)
class TargetSensitivity:
    """Sensitivity of the layers in one runtime's graph."""

    target: str
    """Runtime whose graph was analysed."""
    float: FloatAccuracy
    """Accuracy with all layers in float."""
    int8: Simulated
    """Accuracy with all layers in INT8."""
    layers: tuple[SensitiveLayer, ...]
    """Sensitivity of each layer."""
    blocks: tuple[SensitiveBlock, ...]
    """Sensitivity of each block."""
    culprits: Culprits
    """Layers that must stay in float to keep the drop within the bound."""
    verdict: Literal["pass", "fail"]
    """`pass` if the drop with all layers in INT8 is within the bound, else `fail`."""

    @classmethod
    def of(
        cls,
        target: str,
        top1: Fraction,
        int8: Simulated,
        layers: Iterable[SensitiveLayer],
        blocks: Iterable[SensitiveBlock],
        culprits: Sequence[str],
        then: Simulated,
    ) -> "TargetSensitivity":
        """The sensitivity with a float top-1, and the `culprits`, with which in float the accuracy is `then`."""
        return cls(
            target=target,
            float=FloatAccuracy(top1),
            int8=int8,
            layers=tuple(layers),
            blocks=tuple(blocks),
            culprits=Culprits(tuple(culprits), then),
            verdict="fail" if culprits else "pass",
        )


@dataclass(frozen=True)
class NamedModel:
    """The network's name and the hash of its weights."""

    name: str
    """Name of the model."""
    weights_sha256: str | None
    """SHA-256 of the weights."""


@dataclass(frozen=True)
class ImageSet:
    """The number of images and the hash of their contents."""

    count: Count
    """Number of images."""
    sha256: str | None
    """SHA-256 over the contents of the images."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Sensitivity of a model's layers to INT8, for each runtime."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: str
    """Time at which the document was written."""
    command: tuple[str, ...]
    """Command line, split into its arguments; paths without their folders, because reports are shared."""
    model: NamedModel
    """Network that was analysed."""
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for random weights."""
    recipe: str
    """Name of the quantization recipe."""
    calibration: ImageSet
    """Calibration images."""
    evaluation: ImageSet
    """Images on which the layers were measured."""
    max_drop_points: float
    """Largest drop in top-1 that the verdict allows, in percentage points."""
    targets: tuple[TargetSensitivity, ...]
    """Sensitivity of the layers, for each runtime."""

    def page(self) -> Iterator[Block]:
        """The layers that should stay in float for each runtime, then the first of all blocks and layers."""
        for part in self.targets:
            yield Paragraph(f"{part.target}-int8: {advice(self, part)}", "bold")
        yield Paragraph(f"{self.model.name}, recipe {self.recipe}: simulated on {self.evaluation.count:,} images.")
        for part in self.targets:
            yield ""
            yield Paragraph(f"{part.target}: {whole(self, part)}", "bold")
            for title, rows in (("blocks", part.blocks), ("layers", part.layers)):
                yield TextTable(_columns(self, title, rows))
                if len(rows) > SHOWN:
                    yield f"and {len(rows) - SHOWN} more in sensitivity.json"

    def steps(self, folder: Path) -> Iterator[NextStep]:
        """The next command after `edgekit sensitivity`, for the runtimes whose loss is too large."""
        flagged = [part.target for part in self.targets if part.verdict != "pass"]
        if flagged and keeps_job(folder):
            bound = ("--max-drop", f"{self.max_drop_points:g}") if "--max-drop" in self.command else ()
            words = ("edgekit", "deploy", str(folder), *bound, "--target", ",".join(flagged))
            yield NextStep("keep such layers in float where int8 stays faster", words)

    def svg(self) -> str:
        """`draw_sensitivity` as an SVG file."""
        return render_svg(draw_sensitivity(self))


SHOWN = 15
"""Number of layers in a table or picture."""
FREE = 0.005
"""Share of the INT8 time up to which a layer loses nothing in float: profiles are no more precise."""


Change = TypeVar("Change", str, tuple[str, LayerKind])
"""The name of a layer that moves to float, or the name and the next kind of one."""


def order_of(noise: Mapping[Change, float], cost: Mapping[Change, float], int8_ms: float) -> list[Change]:
    """Changes sorted by the noise that they remove for the time that they cost, largest first; by noise without costs.

    Costs below `FREE` of the time in INT8 count as that, and those that are unknown as the largest one.
    """
    least = FREE * int8_ms or 1.0
    most = max([least, *cost.values()])
    return sorted(noise, key=lambda change: (-noise[change] / max(least, cost.get(change, most)), change))


def ranked(rows: Sequence[Sensitive]) -> list[Sensitive]:
    """Layers or blocks, those first that should stay in float first: by their noise and the time that INT8 saves."""
    times = {row.name: row.time for row in rows if row.time}
    lost = {name: time.saved_ms for name, time in times.items()}
    int8_ms = sum(time.int8_ms for time in times.values())
    by_name = {row.name: row for row in rows}
    return [by_name[name] for name in order_of({row.name: row.noise_share for row in rows}, lost, int8_ms)]


def whole(sensitivity: Sensitivity, part: TargetSensitivity) -> str:
    """The accuracy with all layers in INT8, in words."""
    int8 = part.int8
    snr = f"all layers in INT8: signal-to-noise ratio {_number(int8.snr_db, 1)} dB"
    if not sensitivity.accuracy_meaningful:
        return f"{snr}, agreement {int8.agreement:.1%} (the weights are random)"
    low, high = int8.drop_ci95_points
    return f"{snr}, drop {int8.drop_top1_points:.2f} points [95 %: {low:.2f}, {high:.2f}]"


def advice(sensitivity: Sensitivity, part: TargetSensitivity) -> str:
    """The verdict in words, and the layers that should stay in float."""
    allowed = points(sensitivity.max_drop_points)
    if part.verdict == "pass":
        return f"The drop is within {allowed}."
    names = ", ".join(part.culprits.layers)
    drop = part.culprits.then.drop_top1_points
    return f"FLAGGED: the drop exceeds {allowed}. With these layers in float it is {points(round(drop, 2))}: {names}"


def _columns(sensitivity: Sensitivity, title: str, parts: Sequence[Sensitive]) -> list[Column]:
    parts = ranked(parts)[:SHOWN]

    def shown(drop: float) -> str:
        return _number(drop, 2) if sensitivity.accuracy_meaningful else MEANINGLESS

    return [
        Column(title, [part.name for part in parts], left=True),
        Column("M MAC", [f"{part.macs / 1e6:,.2f}" for part in parts]),
        Column("noise\n%", [f"{100 * part.noise_share:.1f}" for part in parts]),
        Column("SNR dB\nalone", [_number(part.only_int8.snr_db, 1) for part in parts]),
        Column("drop\nalone", [shown(part.only_int8.drop_top1_points) for part in parts]),
        Column("SNR gain\nin float", [_number(part.only_float.snr_gain_db, 1) for part in parts]),
        Column("points\ngained", [shown(part.only_float.gain_top1_points) for part in parts]),
        *(
            Column(f"{head}\nms", [_number(getattr(part.time, field, None), 3) for part in parts], rank=rank)
            for head, field, rank in (("INT8", "int8_ms", 2), ("float", "float_ms", 1), ("saves", "saved_ms", 0))
        ),
    ]


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:z.{digits}f}"


def sentences_of(sensitivity: Sensitivity) -> list[str]:
    """The accuracy and the advice for each runtime."""
    return [f"{part.target}: {whole(sensitivity, part)}. {advice(sensitivity, part)}" for part in sensitivity.targets]


def draw_sensitivity(sensitivity: Sensitivity) -> Picture:
    """A picture of the layers to keep in float first for each runtime: their noise, and the time that INT8 saves."""
    rows, sentences = [], []
    for part in sensitivity.targets:
        layers = ranked(part.layers)[:SHOWN]
        columns = {"share of the noise, %\n(lower is better)": [100 * layer.noise_share for layer in layers]}
        if any(layer.time for layer in layers):
            saved = [layer.time.saved_ms if layer.time else 0 for layer in layers]
            columns["time saved by INT8, ms\n(higher is better)"] = saved
        title = part.target if len(columns) == 2 else f"{part.target}, time saved: unknown"
        rows.append(
            [
                Panel(
                    marks=[bar(row, value, series) for row, value in enumerate(values)],
                    label=label,
                    title="" if series else title,
                    names=[layer.name for layer in layers],
                )
                for series, (label, values) in enumerate(columns.items())
            ]
        )
        worst = ", ".join(f"{layer.name} {layer.noise_share:.0%}" for layer in layers[:3])
        sentences.append(f"{part.target}: {whole(sensitivity, part)}; the first layers to keep in float are {worst}")
    return Picture(f"Noise of each layer in INT8, and the time that INT8 saves. {'. '.join(sentences)}.", rows)
