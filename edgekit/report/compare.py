"""Two runs beside each other: what changed, and what got worse beyond the noise of both."""

from collections.abc import Mapping
from math import exp, hypot, log
from typing import Any

from edgekit.report.columns import is_meaningful, lookup, row_name

Report = Mapping[str, Any]
Row = Mapping[str, Any]
GROWTH = 0.01
"""Share by which a size, which has no noise, may grow; and share of MACs that may leave the integer kernels."""


def compare_runs(before: Report, after: Report) -> dict[str, Any]:
    """The document of `edgekit compare`: for each bundle and device what changed, and which changes are regressions.

    `ci95` is the interval of a difference or ratio, from those of the two runs (Zou and Donner, 2008): the runs count
    as independent, so where both evaluated the same images it's wider than it need be.
    """
    old = {_key(row): row for row in before["results"]}
    new = {_key(row): row for row in after["results"]}
    meaningful = is_meaningful(before) and is_meaningful(after)
    rows = [_compare(key, old.get(key), new.get(key), meaningful) for key in dict.fromkeys((*old, *new))]
    worse = [f"{row['bundle']} on {row['device']}: {text}" for row in rows for text in row["regressions"]]
    return {
        "schema_version": 1,
        "notes": _notes(before, after, meaningful),
        "results": rows,
        "regressions": worse,
        "verdict": "fail" if worse else "pass",
    }


def _key(row: Row) -> tuple[str, str]:
    return str(row["device"]["name"]), f"{row['target']}-{row['precision']}"


def _notes(before: Report, after: Report, meaningful: bool) -> list[str]:
    """What differs between the runs beside the figures: it may be the reason, or make them hard to compare."""
    said = [] if meaningful else ["accuracy is not compared: the weights of a run are random"]
    for path, what in (
        ("model.name", "model"),
        ("model.weights_sha256", "weights"),
        ("evaluation.sha256", "evaluation images"),
        ("calibration.sha256", "calibration images"),
        ("calibration.recipe", "recipe"),
        ("edgekit", "version of edgekit"),
    ):
        a, b = lookup(before, path), lookup(after, path)
        if a != b:
            said.append(f"another {what}: {str(a)[:40]} and {str(b)[:40]}")
    machines = [{row["device"]["cpu"] for row in report["results"]} for report in (before, after)]
    if machines[0] != machines[1]:
        said.append(f"another processor: {', '.join(map(str, machines[0]))} and {', '.join(map(str, machines[1]))}")
    return said


def _compare(key: tuple[str, str], old: Row | None, new: Row | None, meaningful: bool) -> dict[str, Any]:
    device, name = key
    found: dict[str, Any] = {"device": device, "bundle": name, "changes": {}, "regressions": []}
    if old is None or new is None:
        found["verdicts"] = [old and old["verdict"], new and new["verdict"]]
        found["regressions"] = ["it is missing in the second run"] if new is None else []
        return found
    found["bundle"], found["verdicts"] = row_name(new), [old["verdict"], new["verdict"]]
    changes = {
        "drop_top1_points": _drop(old, new) if meaningful else None,
        "speedup_ratio": _speedup(old, new),
        "latency_p50_ms": _plain(old, new, "latency_ms.p50"),
        "peak_rss_bytes": _plain(old, new, "peak_rss_bytes"),
        "size_bytes": _plain(old, new, "size_bytes"),
        "int8_share_of_macs": _plain(old, new, "int8.share_of_macs"),
    }
    found["changes"] = {title: change for title, change in changes.items() if change}
    found["regressions"] = _regressions(old, new, found["changes"])
    return found


def _plain(old: Row, new: Row, path: str) -> dict[str, Any] | None:
    """A figure of both runs; None where one has none."""
    a, b = lookup(old, path), lookup(new, path)
    return None if a is None or b is None else {"before": a, "after": b}


def _drop(old: Row, new: Row) -> dict[str, Any] | None:
    """Points of top-1 lost in the second run beyond those lost in the first, with the interval of the difference."""
    ends = [lookup(row, "accuracy.drop_ci95_points") for row in (old, new)]
    change = _plain(old, new, "accuracy.drop_top1_points")
    if change is None or None in ends:
        return None
    (low_a, high_a), (low_b, high_b) = ends
    a, b = change["before"], change["after"]
    interval = [b - a - hypot(b - low_b, high_a - a), b - a + hypot(high_b - b, a - low_a)]
    return change | {"difference": b - a, "ci95": interval}


def _speedup(old: Row, new: Row) -> dict[str, Any] | None:
    """The second run's speedup over the first's: each is over a float timed in the same process, so drift cancels."""
    ends, change = [lookup(row, "speedup.ci95") for row in (old, new)], _plain(old, new, "speedup.ratio")
    if change is None or None in ends or min(change["before"], change["after"], *ends[0], *ends[1]) <= 0:
        return None
    a, b = log(change["before"]), log(change["after"])
    (low_a, high_a), (low_b, high_b) = ([log(end) for end in pair] for pair in ends)
    interval = [exp(b - a - hypot(b - low_b, high_a - a)), exp(b - a + hypot(high_b - b, a - low_a))]
    return change | {"ratio": exp(b - a), "ci95": interval}


def _regressions(old: Row, new: Row, changes: Mapping[str, Any]) -> list[str]:
    said = []
    if old["verdict"] == "pass" and new["verdict"] != "pass":
        said.append(f"its verdict was pass and is {new['verdict']}: {'; '.join(new['reasons'])}")
    drop, faster, p50 = (changes.get(key) for key in ("drop_top1_points", "speedup_ratio", "latency_p50_ms"))
    if drop and drop["ci95"][0] > 0:
        said.append(
            f"top-1 drops {drop['difference']:.2f} points more (95 % interval {drop['ci95'][0]:.2f} to "
            f"{drop['ci95'][1]:.2f})"
        )
    # A float that got faster makes the speedup smaller without anything being worse.
    if faster and p50 and faster["ci95"][1] < 1 and p50["after"] > p50["before"]:
        said.append(
            f"the speedup is {faster['after']:.2f}x, it was {faster['before']:.2f}x (95 % interval of the ratio "
            f"{faster['ci95'][0]:.2f} to {faster['ci95'][1]:.2f}), p50 {p50['before']:.2f} to {p50['after']:.2f} ms"
        )
    size, share = changes.get("size_bytes"), changes.get("int8_share_of_macs")
    if size and size["after"] > size["before"] * (1 + GROWTH):
        said.append(f"its size grew from {size['before'] / 1e6:.2f} to {size['after'] / 1e6:.2f} MB")
    if share and share["after"] < share["before"] - GROWTH:
        said.append(f"{share['after']:.1%} of the MACs run in int8, where {share['before']:.1%} did")
    return said
