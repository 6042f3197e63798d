"""Renders the sensitivity of layers (sensitivity.json) as a table and as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.report.figure import MEANINGLESS, NOTHING, points
from edgekit.report.plot import INK, SERIES, STYLE, inline, standalone_svg, svg_of
from edgekit.report.sensitivity_document import SensitiveBlock, SensitiveLayer, Sensitivity, TargetSensitivity
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console
    from rich.table import Table

Part = SensitiveLayer | SensitiveBlock
SHOWN = 15
"""Number of layers in a table or picture."""


def noisiest(rows: Sequence[Part]) -> list[Part]:
    """Layers or blocks, sorted by the noise that each makes alone, the largest first."""
    return sorted(rows, key=lambda row: -row.noise_share)


def render_sensitivity(sensitivity: Sensitivity, console: "Console") -> None:
    """Print the layers that should stay in float for each runtime, then the noisiest blocks and layers."""
    import_needed("rich", "cli")
    from rich.text import Text

    for part in sensitivity.targets:
        console.print(Text(f"{part.target}-int8: {advice(sensitivity, part)}", style="bold"))
    images = sensitivity.evaluation.count
    console.print(Text(f"{sensitivity.model.name}, recipe {sensitivity.recipe}: simulated on {images:,} images."))
    for part in sensitivity.targets:
        console.print(Text(f"\n{part.target}: {whole(sensitivity, part)}", style="bold"))
        for title, rows in (("blocks", part.blocks), ("layers", part.layers)):
            console.print(_table(sensitivity, title, rows))
            if len(rows) > SHOWN:
                console.print(Text(f"and {len(rows) - SHOWN} more in sensitivity.json"))


def whole(sensitivity: Sensitivity, part: TargetSensitivity) -> str:
    """The accuracy with all layers in INT8, in words."""
    int8 = part.int8
    snr = f"all layers in INT8: signal-to-noise ratio {_number(int8.snr_db, 1)} dB"
    if not sensitivity.accuracy_meaningful:
        return f"{snr}, agreement {int8.agreement:.1%} (the weights are random)"
    low, high = int8.drop_ci95_points
    return f"{snr}, top-1 drop {int8.drop_top1_points:.2f} points [95 %: {low:.2f}, {high:.2f}]"


def advice(sensitivity: Sensitivity, part: TargetSensitivity) -> str:
    """The verdict in words, and the layers that should stay in float."""
    allowed = points(sensitivity.max_drop_points)
    if part.verdict == "pass":
        return f"The drop is within {allowed}."
    names = ", ".join(part.culprits.layers)
    drop = part.culprits.then.drop_top1_points
    return f"FLAGGED: the drop exceeds {allowed}. With these layers in float it is {points(round(drop, 2))}: {names}"


def _table(sensitivity: Sensitivity, title: str, rows: Sequence[Part]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, no_wrap=True)
    for head in (
        "M MAC",
        "noise\n%",
        "SNR dB\nalone",
        "drop\nalone",
        "SNR gain\nin float",
        "points\ngained",
        "saves\nms",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for row in noisiest(rows)[:SHOWN]:
        drops = [row.only_int8.drop_top1_points, row.only_float.gain_top1_points]
        lost, gained = (_number(drop, 2) if sensitivity.accuracy_meaningful else MEANINGLESS for drop in drops)
        table.add_row(
            row.name,
            f"{row.macs / 1e6:,.2f}",
            f"{row.noise_share:.1%}".removesuffix("%"),
            _number(row.only_int8.snr_db, 1),
            lost,
            _number(row.only_float.snr_gain_db, 1),
            gained,
            _number(row.time.saved_ms if row.time else None, 3),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:z.{digits}f}"


def draw_sensitivity(sensitivity: Sensitivity, standalone: bool = False) -> tuple[str, str]:
    """(SVG, description in words) of the noisiest layers for each runtime, and the time that INT8 saves in each.

    The SVG is an element in the page's colours, or a standalone file. Raises MissingExtraError if matplotlib is not
    installed.
    """
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    parts = sensitivity.targets
    heights = [min(len(part.layers), SHOWN) for part in parts]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, sum(0.9 + 0.24 * height for height in heights)), layout="constrained")
        grid = figure.subplots(len(parts), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (left, right), part in zip(grid, parts, strict=True):
            rows = noisiest(part.layers)[:SHOWN]
            _bars(left, rows, [100 * row.noise_share for row in rows], SERIES[0])
            saved = [row.time.saved_ms if row.time else 0.0 for row in rows]
            _bars(right, rows, saved, SERIES[1])
            left.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
            right.set_yticks([])
            left.set_title(part.target, loc="left", fontsize=11)
            left.set_xlabel("share of the noise, % (lower is better)")
            has_times = any(row.time for row in rows)
            right.set_xlabel("time saved by INT8, ms (higher is better)" if has_times else "time saved: unknown")
        drawn = svg_of(figure)
    return (standalone_svg(drawn) if standalone else inline(drawn)), _words(sensitivity)


def _bars(axes: "Axes", rows: Sequence[Part], values: list[float], colour: str) -> None:
    axes.barh(range(len(rows)), values, height=0.7, color=colour)
    axes.set_axisbelow(True)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", linewidth=0.5, alpha=0.6)


def _words(sensitivity: Sensitivity) -> str:
    """The picture in words, for readers who cannot see it."""
    sentences = []
    for part in sensitivity.targets:
        worst = [f"{row.name} {row.noise_share:.0%}" for row in noisiest(part.layers)[:3]]
        sentences.append(f"{part.target}: {whole(sensitivity, part)}; the noisiest layers are {', '.join(worst)}")
    return f"Noise of each layer in INT8, and the time that INT8 saves. {'. '.join(sentences)}."
