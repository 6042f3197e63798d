"""The demo's output, report and page as README shows them.

    python -m benchmarks.demo
    make figures

It waits for an idle machine, and writes benchmarks/demo.txt, benchmarks/demo.json and docs/report.png, the last with
Chromium.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.machine import when_idle
from benchmarks.recording import keep_recording, new_recording

HERE = Path(__file__).resolve().parent
OUTPUT, REPORT, PICTURE = HERE / "demo.txt", HERE / "demo.json", HERE.parent / "docs" / "report.png"
COLUMNS = 80
"""Width of the terminal, in characters."""
BROWSER = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--window-size=1280,1080",
)  # fmt: skip


def main() -> None:
    recording = new_recording()
    with tempfile.TemporaryDirectory() as folder:
        printed, _ = when_idle(partial(run, folder), "demo")
        keep_recording(HERE, recording, REPORT.name)
        lines = (line.rstrip() for line in printed.splitlines())
        OUTPUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = Path(folder, "runs", "demo")
        shutil.copy(made / "report.json", REPORT)
        profile = f"--user-data-dir={folder}/browser"
        subprocess.run([*BROWSER, profile, f"--screenshot={PICTURE}", f"file://{made}/report.html"], check=True)


def run(folder: str) -> str:
    """What the demo prints; its run stays in the folder."""
    shutil.rmtree(Path(folder, "runs"), ignore_errors=True)
    command = [sys.executable, "-m", "edgekit", "demo"]
    columns = {**os.environ, "COLUMNS": str(COLUMNS)}
    return subprocess.run(command, cwd=folder, env=columns, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
