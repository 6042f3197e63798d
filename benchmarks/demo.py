"""The demo's output, report and page as README shows them.

    python -m benchmarks.demo
    make figures

Run it on a machine that does nothing else. It writes benchmarks/demo.txt, benchmarks/demo.json and docs/report.png, the
last with Chromium.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT, REPORT, PICTURE = HERE / "demo.txt", HERE / "demo.json", HERE.parent / "docs" / "report.png"
COLUMNS = 80
"""Width of the terminal, in characters."""
BROWSER = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--window-size=1280,1080",
)  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "demo"],
            cwd=folder,
            env={**os.environ, "COLUMNS": str(COLUMNS)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = (line.rstrip() for line in done.stdout.splitlines())
        OUTPUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
        run = Path(folder, "runs", "demo")
        shutil.copy(run / "report.json", REPORT)
        profile = f"--user-data-dir={folder}/browser"
        subprocess.run([*BROWSER, profile, f"--screenshot={PICTURE}", f"file://{run}/report.html"], check=True)


if __name__ == "__main__":
    main()
