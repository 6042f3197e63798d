"""The figures at the top of README: speed, size and accuracy, and the commands that measure them."""

from textwrap import fill

from docs.generate import trained
from docs.generate.figures import TIMES, machine_of, processor
from docs.generate.markdown import code, table
from docs.generate.peers import FILE, Peers, peers, peers_of
from edgekit.config.runtimes import RUNTIMES

WIDTH = 130
"""Longest line of text, in characters."""
LARGE = "convnextv2_tiny"
ROWS = (*(("demo", runtime) for runtime in RUNTIMES), (LARGE, "openvino"))
"""The demo's trained network on each runtime, and a larger network on the runtime with the fastest float."""


def headlines() -> str:
    """A table, and what it compares with."""
    heads = (
        "network", "runtime", "INT8 against the fastest float", "against the fastest stock INT8", "size",
        "top-1 lost, points",
    )  # fmt: skip
    rows = [_cells(peers_of(model, runtime), runtime) for model, runtime in ROWS]
    first = trained.loss_of(trained.DEMO, next(iter(RUNTIMES)))
    where = f" on an {processor(first.cpu)}" if first.cpu else ""
    here = "docs/concepts/comparison.md"
    networks = len({row.model for row in peers()})
    text = (
        f"Both networks are ConvNeXt V2; [Beside the stock tools]({here}) has {networks}, also where edgekit gains "
        f"nothing or loses. Times are of an {machine_of(FILE)}, with one thread. The fastest float is edgekit's or the "
        "stock tools', in f32 or bf16; stock INT8 is that of NNCF, ONNX Runtime's `quantize_static` and "
        f"litert-quantizer. The loss, with its 95 % interval, is of {first.images:,} held-out images{where}; torch "
        f"classifies {100 * first.float_score:.2f} % of them correctly. [These commands]({here}#measure-it-yourself) "
        "measure it again."
    )
    wrapped = fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{table(heads, rows)}\n\n{wrapped}\n"


def _cells(row: Peers, runtime: str) -> tuple[str, ...]:
    first = row.stock[0]
    is_demo = row.model == "demo"
    name = "the demo's" if is_demo else code(row.model)
    float_ms = f"{row.float_precision}, {_ms(row.float_ms)} → {_ms(row.int8_ms)} ms"
    return (
        f"{name}, {row.weights} weights, {row.side} px",
        row.runtime,
        f"**{row.speedup.ratio:.2f}{TIMES} as fast** ({float_ms})",
        f"{first.ours.ratio:.2f}{TIMES} ({first.name})",
        f"{row.float_bytes / row.int8_bytes:.1f}{TIMES} smaller",
        str(trained.loss_of(trained.DEMO, runtime)) if is_demo else "the weights are random",
    )


def _ms(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
