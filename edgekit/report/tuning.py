"""A search (`tuning` in report.json) as a picture and as lines. Measures nothing."""

from collections.abc import Mapping
from typing import Any

from edgekit.report.plot import INK, SERIES, STYLE, inline, standalone_svg, svg_of
from edgekit.support.libraries import import_needed

Row = Mapping[str, Any]


def draw_tuning(tuning: Row, standalone: bool = False) -> tuple[str, str]:
    """(SVG, what it shows in words): every trial's drop against its latency, and the front that none is better than.

    An element in the page's colours, or a whole file. Raises MissingExtraError without matplotlib.
    """
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    parts = tuning["targets"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1 * len(parts)), layout="constrained")
        for axes, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
            done = {each["number"]: each for each in part["trials"] if each["state"] == "complete"}
            front = sorted((done[number] for number in part["front"]), key=lambda each: each["time_share"])
            axes.plot(*_points(done.values()), "o", color=SERIES[0], mfc="none", ms=6, label="trial")
            axes.plot(*_points(front), "o-", color=SERIES[0], ms=6, label="front")
            if part["best"] in done:
                axes.plot(*_points([done[part["best"]]]), "D", color=SERIES[1], ms=9, label="taken")
            axes.axhline(tuning["max_drop_points"], color=INK, linestyle="--", linewidth=1, label="bound")
            axes.set_title(part["target"], loc="left", fontsize=11)
            axes.set_xlabel("latency, % of float's (less is better)")
            axes.set_ylabel("top-1 drop, points (less is better)")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(True, linewidth=0.5, alpha=0.6)
            axes.legend(frameon=False, fontsize=9)
        drawn = svg_of(figure)
    return (standalone_svg(drawn) if standalone else inline(drawn)), " ".join(lines(tuning))


def _points(trials: Any) -> tuple[list[float], list[float]]:
    known = list(trials)
    return [100 * each["time_share"] for each in known], [each["drop_top1_points"] for each in known]


def lines(tuning: Row) -> list[str]:
    """What came of the search, a sentence for each target."""
    return [_line(tuning, part) for part in tuning["targets"]]


def _line(tuning: Row, part: Row) -> str:
    done = [each for each in part["trials"] if each["state"] == "complete"]
    images = tuning["images"]["count"]
    (taken,) = (each for each in done if each["number"] == part["best"])
    said = [taken["estimator"], *(["SmoothQuant"] if taken["smooth_quant"] else [])]
    said += [f"{taken['bias_correction']} bias correction"] if taken["bias_correction"] != "none" else []
    said += [f"{taken['layers_in_float']} more layers in float"] if taken["layers_in_float"] else []
    bounds = f"a drop of at most {tuning['max_drop_points']:g} points"
    bounds += f" and more than {tuning['min_speedup']:g}x float" if tuning["min_speedup"] > 0 else ""
    met = "" if taken["met"] else ", which no trial kept to"
    return (
        f"{part['target']}: {len(done)} recipes tried on {images:,} tuning images for {bounds}{met}; "
        f"taken: {', '.join(said)} (drop {taken['drop_top1_points']:.2f} points there, {taken['speedup']:.2f}x float)."
    )
