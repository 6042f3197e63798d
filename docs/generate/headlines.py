"""The figures at the top of README: speed, size and accuracy over all networks, and where edgekit loses."""

from collections.abc import Callable, Collection, Sequence
from statistics import geometric_mean, median
from textwrap import fill

from docs.generate import trained
from docs.generate.figures import TIMES, recorded
from docs.generate.markdown import code, table
from docs.generate.peers import Best, Peers, all_peers, bests, files, kind, means
from edgekit.config.runtimes import RUNTIMES

WIDTH = 150
"""Longest line of text, in characters."""
PAGE = "docs/concepts/comparison.md"
CONVNEXT = "convnextv2"
"""The recipe of both generations of ConvNeXt."""


def headlines() -> str:
    """A line for each runtime and kind of network, a column for each kind of processor, and what it compares with."""
    count = len(bests(files()[0], RUNTIMES))
    text = (
        f"How many times as fast: geometric means and ranges over the {count} networks of [the comparison]({PAGE}), "
        "against the fastest float and then against the fastest stock INT8 that edgekit, NNCF, ONNX Runtime's "
        "`quantize_static`, litert-quantizer or, in the last row, ExecuTorch made. Each file has the number of threads "
        f"that edgekit's rule takes, one or two. {_defeats()} {' '.join(map(recorded, files()))} To check the "
        "demo's rows in a few minutes: `python -m benchmarks.peers --models demo --json mine.json`."
    )
    losses = trained.beside_stock()
    lost = (
        f"What INT8 costs {len({ours.network for ours, _ in losses})} "
        f"[trained networks]({PAGE}#what-int8-costs-trained-networks) before repair, and how fast the same files are:"
    )
    paragraphs = (_filled(text), _filled(lost))
    return f"{_speeds()}\n\n{paragraphs[0]}\n\n{paragraphs[1]}\n\n{_losses(losses)}\n"


def _filled(text: str) -> str:
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _speeds() -> str:
    heads = ("networks", "runtime", *map(kind, files()), "size")
    lines = [
        _line(title, RUNTIMES[name].title, [name], chosen)
        for title, chosen in (("ConvNeXt", _is_convnext), ("others", lambda best: not _is_convnext(best)))
        for name in RUNTIMES
    ]
    lines.append(_line("all", "the fastest of them", [*RUNTIMES, "executorch"], lambda best: True))
    return table(heads, lines)


def _is_convnext(best: Best) -> bool:
    return best.recipe == CONVNEXT


def _line(title: str, runtime: str, names: Collection[str], chosen: Callable[[Best], bool]) -> list[str]:
    columns = [[best for best in bests(file, names) if chosen(best)] for file in files()]
    ratios = [[(best.float_ms / best.int8_ms, best.stock_ms / best.int8_ms) for best in column] for column in columns]
    cells = ["**{}**, {}".format(*map(means, zip(*column, strict=True))) for column in ratios]
    size = geometric_mean(best.size for column in columns for best in column)
    return [title, runtime, *cells, f"{size:.1f}{TIMES} smaller"]


def _losses(pairs: list[tuple[trained.Loss, trained.Loss]]) -> str:
    heads = (
        "runtime", "top-1 lost by edgekit, points: median (most)", "speed against float: median (least)",
        "top-1 lost by the stock tool", "its speed",
    )  # fmt: skip
    sides = {title: zip(*own, strict=True) for title, own in _by_runtime(pairs).items()}
    return table(heads, [(title, *(cell for side in both for cell in _loss(side))) for title, both in sides.items()])


def _by_runtime(pairs: list[tuple[trained.Loss, trained.Loss]]) -> dict[str, list[tuple[trained.Loss, trained.Loss]]]:
    return {runtime.title: [pair for pair in pairs if pair[0].runtime == name] for name, runtime in RUNTIMES.items()}


def _loss(losses: Sequence[trained.Loss]) -> tuple[str, str]:
    points, speeds = [loss.points for loss in losses], [loss.speed for loss in losses if loss.speed]
    return f"{median(points):.2f} ({max(points):.2f})", f"{median(speeds):.2f}{TIMES} ({min(speeds):.2f})"


def _defeats() -> str:
    """Where edgekit's INT8 loses over the whole interval, with any number of threads."""
    every = all_peers()
    found = {
        "the fastest stock INT8": [row for row in every if row.stock[0].ours.high < 1],
        "float": [row for row in every if row.speedup.high < 1],
    }
    parts = [f"than {name} on {', '.join(dict.fromkeys(map(_name, rows)))}" for name, rows in found.items() if rows]
    return f"edgekit's INT8 is slower {' and '.join(parts)}." if parts else "edgekit's INT8 is slower nowhere."


def _name(row: Peers) -> str:
    return f"{code(row.model)} ({row.runtime}; {kind(row.file)})"
