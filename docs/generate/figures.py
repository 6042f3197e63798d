"""Figures of the benchmarks' JSON for README and docs, which cog writes into the Markdown: `make figures`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.demo import OUTPUT, REPORT
from benchmarks.recording import Recording, recording_of, recordings
from benchmarks.rows import Row, read_rows
from docs.generate.markdown import table
from edgekit.config.runtimes import FORMS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TIMES = "×"  # noqa: RUF001
NOTHING = "–"  # noqa: RUF001


def recorded(file: str) -> str:
    """A sentence: of which commit, day and machine a whole file of figures is."""
    recording = recording_of(BENCHMARKS / file)
    assert recording is not None, f"benchmarks/{file} has no recording"
    return _sentence(recording)


def _sentence(recording: Recording) -> str:
    return f"Recorded on {recording.date} at commit {recording.commit}: {recording.where}.{_since([recording])}"


def recorded_rows(rows: Sequence[Row]) -> str:
    """A sentence: of which commits, days and processors these rows are."""
    known = recordings(BENCHMARKS)
    found = {name: known[name] for row in rows if (name := row.get("recording"))}
    if len(found) == 1 and all("recording" in row for row in rows):
        return _sentence(*found.values())
    when = [(each.date, each.commit) for each in found.values()]
    when += [(row["created"][:10], row.get("commit", "?")) for row in rows if "recording" not in row]
    cpus = {each.cpu for each in found.values()} | {row["cpu"] for row in rows if row.get("cpu")}
    (first, start), (last, end) = min(when), max(when)
    where = f", on {' and '.join(sorted(cpus))}" if cpus else ""
    commits = f"commit {start}" if start == end else f"commits {start} to {end}"
    day = f"on {first}" if first == last else f"from {first} to {last}"
    return f"Recorded {day} at {commits}{where}.{_since(found.values())}"


def _since(recordings_of_figures: Iterable[Recording]) -> str:
    """A sentence if bundles may be others today than those of the figures."""
    same = all(recording.of_today() for recording in recordings_of_figures)
    return "" if same else " Recipes, compiler or runtimes of edgekit have changed since."


def day_of(row: Row) -> str:
    """The day on which a row was recorded, such as "2026-12-01"."""
    name = row.get("recording")
    return recordings(BENCHMARKS)[name].date if name else str(row["created"])[:10]


def demo_output() -> str:
    """What `edgekit demo` printed when `python -m benchmarks.demo` recorded it, and where."""
    output = OUTPUT.read_text(encoding="utf-8")
    return f"{recorded(REPORT.name)} Later versions may print more:\n\n```text\n{output}```\n"


PREPARED = {
    "photo": "JPEG of 12 megapixels",
    "frame": "frame of 1920x1080, as a uint8 array",
    "file": "JPEG of about 500 pixels",
}
"""The kinds of images of `benchmarks.photos`."""


def photos_table() -> str:
    """Milliseconds from an image to the input of a model, by stage, in each form of preprocessing, and where."""
    rows = read_rows(BENCHMARKS / "photos.json")
    lines = []
    for name, title in PREPARED.items():
        exact, fast = ([row for row in rows if (row["image"], row["form"]) == (name, form)] for form in FORMS)
        whole = [_whole(*each) for each in (exact, fast)]
        cells = [f"{ms:.1f} ({_stages(*each)})" for ms, each in zip(whole, (exact, fast), strict=True)]
        lines.append((title, *cells, f"{whole[1] / whole[0]:.2f}"))
    heads = ("image", "exact: decode + resize + normalize, ms", "fast, ms", "fast / exact")
    return f"{table(heads, lines)}\n\n{recorded_rows(rows)}\n"


LOST = {
    "lite0": "EfficientNet-Lite0",
    "lite1": "EfficientNet-Lite1",
    "lite2": "EfficientNet-Lite2",
    "convnextv2": "demo",
}
"""The networks of `benchmarks.photos --loss`."""


def form_losses_table() -> str:
    """What the fast form costs the trained networks, in points with 95 % intervals, and where it was measured."""
    rows = {(row["network"], row["image"]): row for row in read_rows(BENCHMARKS / "photos_loss.json")}
    lines = []
    for name, title in LOST.items():
        for image, shown in (("file", "as they are"), ("photo", "enlarged to 12 megapixels")):
            row = rows[name, image]
            drop, probability = (_loss(row, key) for key in ("drop_top1", "probability"))
            lines.append((title, f"{row['images']} {shown}", f"{row['reduced']}", drop, probability))
    heads = ("network", "images", "of which the forms differ", "loss of top-1", "loss of the right class's probability")
    return f"{table(heads, lines)}\n\n{recorded_rows([*rows.values()])}\n"


def _loss(row: Row, key: str) -> str:
    low, high = row["drop_ci95_points" if key == "drop_top1" else f"{key}_ci95_points"]
    return f"{row[f'{key}_points']:z.2f} ({low:z.2f} to {high:z.2f})"


def _whole(row: Row) -> float:
    return float(row["decode"] + row["resize"] + row["normalize"])


def _stages(row: Row) -> str:
    return f"{row['decode']:.1f} + {row['resize']:.1f} + {row['normalize']:.1f}"
