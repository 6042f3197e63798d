"""What a row of a report shows, and in which unit: shared by the terminal's table, the page and its picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Row = Mapping[str, Any]

NOTHING = "–"  # noqa: RUF001
MEANINGLESS = "n/a"
RANDOM = "Accuracy is meaningless: the weights are random."


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path, None as soon as there's nothing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def best_float(row: Row) -> str | None:
    """What a speedup is over: a float bundle's name, and what it computed in where that isn't f32; None without one."""
    versus, computed = lookup(row, "speedup.versus"), lookup(row, "speedup.versus_precision")
    return versus if versus is None or computed in (None, "f32") else f"{versus} in {computed}"


def is_meaningful(report: Report) -> bool:
    """Whether accuracy says anything: not with random weights."""
    model = report["model"]
    return bool(model.get("accuracy_meaningful", model["weights"] != "random"))


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    return NOTHING if value is None else f"{value * 100:.2f} %"


def row_name(row: Row) -> str:
    """What a row is called: its bundle, or what that would have been."""
    return row["bundle"] or f"{row['target']}-{row['precision']}"


def said(row: Row) -> list[str]:
    """Why a row didn't pass, and what is remarked on it."""
    return [*row["reasons"], *row.get("remarks", ())]


def devices(report: Report) -> list[str]:
    """Names of the devices measured on, in order."""
    return list(dict.fromkeys(row["device"]["name"] for row in report["results"]))


def shown_device(row: Row) -> str:
    """A row's device as it is shown: an emulated one is always called that."""
    device = row["device"]
    return f"{device['name']} (emulated)" if device.get("emulated") else str(device["name"])


def emulated_devices(report: Report) -> list[str]:
    """Names of the devices that QEMU stood in for."""
    return list(dict.fromkeys(row["device"]["name"] for row in report["results"] if row["device"].get("emulated")))


@dataclass(frozen=True)
class Column:
    """One figure of each row: where it is, its unit after times `scale`, where its 95 % interval is if it has one."""

    title: str
    unit: str
    path: str
    digits: int = 1
    scale: float = 1.0
    interval: str = ""
    rank: int = 0
    """Higher ones are left out first where there's little room."""

    def value(self, report: Report, row: Row) -> float | str | None:
        """The figure in this column's unit, None where there is none or it has no meaning."""
        found = lookup(row, self.path)
        if self.is_meaningless(report) or found is None:
            return None
        return found if isinstance(found, str) else float(found) * self.scale

    def text(self, report: Report, row: Row) -> str:
        """The figure as printed, with its interval."""
        value = self.value(report, row)
        if value is None:
            return MEANINGLESS if self.is_meaningless(report) and row["verdict"] != "error" else NOTHING
        if isinstance(value, str):
            return value
        low, high = (lookup(row, self.interval) if self.interval else None) or (None, None)
        interval = "" if low is None or high is None else f" [{self._number(low)}, {self._number(high)}]"
        return self._number(value / self.scale) + interval

    def is_meaningless(self, report: Report) -> bool:
        """Whether this is accuracy, of random weights."""
        return self.path.startswith("accuracy.") and not is_meaningful(report)

    def _number(self, value: float) -> str:
        text = f"{value * self.scale:,.{self.digits}f}"
        return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


SIZE = Column("size", "MB", "size_bytes", 1, 1e-6, rank=4)
TOP1 = Column("top-1", "%", "accuracy.top1", 2, 100, rank=2)
TOP5 = Column("top-5", "%", "accuracy.top5", 2, 100)
DROP = Column("drop", "points", "accuracy.drop_top1_points", 2, 1, "accuracy.drop_ci95_points", rank=1)
AGREEMENT = Column("agreement", "%", "accuracy.agreement", 1, 100, rank=6)
IMAGES = Column("images", "n", "accuracy.count", 0)
P50 = Column("p50", "ms", "latency_ms.p50", 2)
P90 = Column("p90", "ms", "latency_ms.p90", 2, rank=10)
P99 = Column("p99", "ms", "latency_ms.p99", 2, rank=9)
RUNS = Column("runs", "n", "latency_ms.count", 0)
END_TO_END = Column("end to end", "ms", "end_to_end_ms.p50", 2)
SPEEDUP = Column("speedup", "×", "speedup.ratio", 2, 1, "speedup.ci95", rank=1)  # noqa: RUF001
INT8 = Column("int8", "% MAC", "int8.share_of_macs", 0, 100, rank=3)
LIMIT = Column("of bound", "%", "limit.fraction", 0, 100, rank=5)
PEAK = Column("peak", "MB", "peak_rss_bytes", 0, 1e-6, rank=8)
VERDICT = Column("verdict", "", "verdict")


class _Device(Column):
    """Which device, and whether it is one."""

    def value(self, report: Report, row: Row) -> str:
        return shown_device(row)


DEVICE = _Device("device", "", "device.name")
