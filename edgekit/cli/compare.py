"""`edgekit compare`: what changed between two runs, and a gate for CI."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.app import app
from edgekit.cli.groups import Json
from edgekit.cli.output import clean_stdout, emit

TITLES = {
    "drop_top1_points": ("drop", "{:.2f} points", 1.0),
    "speedup_ratio": ("speedup", "{:.2f}x", 1.0),
    "latency_p50_ms": ("p50", "{:.2f} ms", 1.0),
    "size_bytes": ("size", "{:.2f} MB", 1e-6),
    "peak_rss_bytes": ("peak", "{:.0f} MB", 1e-6),
    "int8_share_of_macs": ("int8", "{:.1f} % of MACs", 100.0),
}


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run folder to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run folder that is judged.")],
    json_: Json = False,
) -> int:
    """What changed from one run to another; exit code 1 where something got worse beyond the noise."""
    from edgekit.compare import compare_runs
    from edgekit.report import load_report

    with clean_stdout() as out:
        found = compare_runs(load_report(before), load_report(after))
        if json_:
            emit(out, found)
        else:
            out.writelines(f"note: {note}\n" for note in found["notes"])
            out.writelines(line for row in found["results"] for line in _lines(row))
            out.writelines(f"worse: {text}\n" for text in found["regressions"])
            if not found["regressions"]:
                out.write("nothing got worse beyond the noise\n")
    return 0 if found["verdict"] == "pass" else 1


def _lines(row: dict[str, Any]) -> list[str]:
    first, second = row["verdicts"]
    lines = [f"{row['bundle']} on {row['device']}: {first or 'missing'} -> {second or 'missing'}\n"]
    for key, (title, form, scale) in TITLES.items():
        change = row["changes"].get(key)
        if change is None:
            continue
        a, b = (form.format(change[end] * scale) for end in ("before", "after"))
        what = "difference" if "difference" in change else "ratio"
        interval = (
            f" ({what} {change[what]:.2f}, 95 % interval {change['ci95'][0]:.2f} to {change['ci95'][1]:.2f})"
            if "ci95" in change
            else ""
        )
        lines.append(f"  {title}: {a} -> {b}{interval}\n")
    return lines
