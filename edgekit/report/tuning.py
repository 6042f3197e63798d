"""Renders a search (`tuning` in report.json) as a picture and as sentences."""

from collections.abc import Iterable

from edgekit.report.figure import counted, points
from edgekit.report.plot import INK, SERIES, STYLE, inline, standalone_svg, svg_of
from edgekit.report.search_document import SearchSummary, TargetSearch, TrialSummary
from edgekit.support.libraries import import_needed


def draw_tuning(search: SearchSummary, standalone: bool = False) -> tuple[str, str]:
    """(SVG, description in words) of every trial's drop against its latency, with the Pareto front.

    The SVG is an element in the page's colours, or a standalone file. Raises MissingExtraError if matplotlib is not
    installed.
    """
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    targets = search.targets
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1 * len(targets)), layout="constrained")
        for axes, target in zip(figure.subplots(len(targets), 1, squeeze=False)[:, 0], targets, strict=True):
            front = [trial for trial in target.complete if trial.number in target.front]
            front.sort(key=lambda trial: trial.time_share or 0.0)
            axes.plot(*_points(target.complete), "o", color=SERIES[0], mfc="none", ms=6, label="trial")
            axes.plot(*_points(front), "o-", color=SERIES[0], ms=6, label="Pareto front")
            if target.taken:
                axes.plot(*_points([target.taken]), "D", color=SERIES[1], ms=9, label="chosen")
            axes.axhline(search.max_drop_points, color=INK, linestyle="--", linewidth=1, label="bound")
            axes.set_title(target.target, loc="left", fontsize=11)
            axes.set_xlabel("latency, % of float's (lower is better)")
            axes.set_ylabel("top-1 drop, points (lower is better)")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(True, linewidth=0.5, alpha=0.6)
            axes.legend(frameon=False, fontsize=9)
        drawn = svg_of(figure)
    return (standalone_svg(drawn) if standalone else inline(drawn)), " ".join(lines(search))


def _points(trials: Iterable[TrialSummary]) -> tuple[list[float], list[float]]:
    """Latencies in percent of the float bundle's, and drops in percentage points, of complete trials."""
    places = [(100 * (trial.time_share or 0.0), trial.drop_top1_points or 0.0) for trial in trials]
    return [x for x, _ in places], [y for _, y in places]


def lines(search: SearchSummary) -> list[str]:
    """The outcome of the search, with a sentence for each runtime."""
    return [_line(search, target) for target in search.targets]


def _line(search: SearchSummary, target: TargetSearch) -> str:
    taken = target.taken
    if taken is None:
        return f"{target.target}: no trial was completed."
    bounds = f"a drop of at most {points(search.max_drop_points)}"
    if search.min_speedup > 0:
        bounds += f" and a speedup of more than {search.min_speedup:g}x"
    chosen = "The best one" if taken.met else "No trial met these bounds; the one with the smallest drop"
    tried = counted(len(target.complete), "recipe")
    return (
        f"{target.target}: {tried} tried on {search.images.count:,} tuning images for {bounds}. "
        f"{chosen} is {_choices(taken)}: its drop on these images is {taken.drop_top1_points:.2f} points, and its "
        f"speedup over float is {taken.speedup:.2f}x."
    )


def _choices(trial: TrialSummary) -> str:
    choices = [trial.estimator]
    if trial.smooth_quant:
        choices.append("SmoothQuant")
    if trial.bias_correction != "none":
        choices.append(f"{trial.bias_correction} bias correction")
    if trial.layers_in_float:
        choices.append(f"{counted(trial.layers_in_float, 'more layer')} in float")
    return ", ".join(choices)
