"""What a report's page says of a single row beyond the table."""

from edgekit.report.document import Report
from edgekit.report.limits import outcomes
from edgekit.report.measurement import Accuracy, LowPrecision
from edgekit.report.row import Row
from edgekit.report.sentences import layer_names
from edgekit.report.telemetry_text import energy_words, heat_words


def details(report: Report, row: Row) -> dict[str, str]:
    """Details that the table has no room for, by title; those that were not measured are left out."""
    int8 = row.int8 if row.precision == "int8" else None
    latency = row.latency_ms
    texts = {
        "Runtime": row.engine,
        "Scheme": row.scheme,
        "Gates": outcomes(row),
        "Timing": runs_words(row),
        "Mean": latency and f"{_ms(latency.mean)}, standard deviation {_ms(latency.std)}",
        "Load": latency and _ms(latency.load),
        "First inference": latency and _ms(latency.first),
        "In low precision": _low_precision(row.low_precision, report.model.accuracy_meaningful),
        "At the class's nominal rate": row.limit and _ms(row.limit.bound_ms),
        "Source of INT8 share": int8 and int8.method,
        "Layers in float": layer_names(int8.float_layers) if int8 else None,
        "Energy": energy_words(row.energy),
        "Temperature and clocks": heat_words(row.thermal),
        "Changed predictions": _flips(row.accuracy),
        "Reasons": "; ".join(row.reasons),
        "Remarks": "; ".join(row.remarks),
    }
    return {title: text for title, text in texts.items() if text}


def runs_words(row: Row) -> str:
    """The number of timed inferences and of threads; empty for a failed row."""
    latency = row.latency_ms
    return f"n = {latency.count:,} runs, threads: {latency.threads}" if latency else ""


def _low_precision(low: LowPrecision | None, meaningful: bool) -> str:
    """Latency and accuracy of a float bundle in bf16 or f16."""
    if low is None:
        return ""
    words = f"{low.computes_in}: p50 {_ms(low.p50_ms)}"
    if low.accuracy:
        drop = f", drop {low.accuracy.drop_top1_points:.2f} points" if meaningful else ""
        words += f"{drop}, agreement {low.accuracy.agreement:.1%}"
    return f"{words}; the drop exceeds the limit" if low.verdict == "fail" else words


def _flips(accuracy: Accuracy | None) -> str:
    """Numbers of images that became right or wrong, and McNemar's test of the difference."""
    if accuracy is None:
        return ""
    return (
        f"{accuracy.right_to_wrong:,} right to wrong, {accuracy.wrong_to_right:,} wrong to right of "
        f"{accuracy.count:,} images, McNemar p = {accuracy.mcnemar_p:.2g}"
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} ms"
