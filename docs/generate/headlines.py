"""The figures at the top of README: speed, size and accuracy over all networks, and where edgekit loses."""

from statistics import geometric_mean, median
from textwrap import fill

from docs.generate import trained
from docs.generate.figures import TIMES, recorded
from docs.generate.markdown import code, table
from docs.generate.peers import FILE, Peers, best_of_all, means, peers
from edgekit.config.runtimes import RUNTIMES

WIDTH = 150
"""Longest line of text, in characters."""
PAGE = "docs/concepts/comparison.md"


def headlines() -> str:
    """A line for each runtime and one for the fastest of them, and what it compares with."""
    heads = (
        "runtime", "INT8 against the fastest float", "against the fastest stock INT8", "size",
        "top-1 lost, points", "by stock INT8",
    )  # fmt: skip
    best = best_of_all()
    lines = [_cells(name, runtime.title) for name, runtime in RUNTIMES.items()]
    lines.append(
        (
            "the fastest of them",
            f"**{means([each.float_ms / each.int8_ms for each in best])}**",
            means([each.stock_ms / each.int8_ms for each in best]),
            f"{geometric_mean(each.size for each in best):.1f}{TIMES} smaller",
            "",
            "",
        )
    )
    networks, losses = len({row.model for row in peers()}), trained.beside_stock()
    count = len({loss.network for loss in losses})
    text = (
        f"How many times as fast: geometric mean and range over the {networks} networks of [the comparison]({PAGE}), "
        "with one thread. Float and stock INT8 are the fastest that edgekit, NNCF, ONNX Runtime's `quantize_static`, "
        "litert-quantizer or, in the last row, ExecuTorch made. The loss is the median (largest) of "
        f"{count} [trained networks]({PAGE}#what-int8-costs-trained-networks) before repair. "
        f"{_defeats()} {recorded(FILE)} It has no bf16; where float runs in bf16, INT8 gains less, [as an earlier "
        f"recording shows]({PAGE}#with-bf16). To check the demo's rows in a few minutes: "
        "`python -m benchmarks.peers --models demo --json mine.json --results mine.md`."
    )
    return f"{table(heads, lines)}\n\n{fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)}\n"


def _cells(runtime: str, title: str) -> tuple[str, ...]:
    rows = [row for row in peers() if row.runtime == title]
    losses = [loss for loss in trained.beside_stock() if loss.runtime == runtime]
    return (
        title,
        f"**{means([row.speedup.ratio for row in rows])}**",
        means([row.stock[0].ours.ratio for row in rows]),
        f"{geometric_mean(row.float_bytes / row.int8_bytes for row in rows):.1f}{TIMES} smaller",
        _median([loss.points for loss in losses]),
        _median([loss.stock_points for loss in losses]),
    )


def _median(points: list[float]) -> str:
    return f"{median(points):.2f} ({max(points):.2f})"


def _defeats() -> str:
    """Where edgekit's INT8 loses over the whole interval."""
    every = peers()
    found = {
        "the fastest stock INT8": [row for row in every if row.stock[0].ours.high < 1],
        "float": [row for row in every if row.speedup.high < 1],
    }
    parts = [f"than {name} on {', '.join(map(_name, rows))}" for name, rows in found.items() if rows]
    return f"edgekit's INT8 is slower {' and '.join(parts)}." if parts else "edgekit's INT8 is slower nowhere."


def _name(row: Peers) -> str:
    return f"{code(row.model)} ({row.runtime})"
