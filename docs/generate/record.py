"""Writes what the code blocks of pages print into the `text` blocks behind them.

    python -m docs.generate.record docs/tutorials/your-own-model.md ...

It runs a page's blocks as the tests do, and those that are skipped `if(not recording, ...)`. A block whose output is
not shown has no `text` block right behind it. The line behind `<!-- recorded -->` gets the day and the processor.
Record pages that show times on a machine at rest.
"""

import contextlib
import io
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest import SkipTest

from docs.generate.figures import processor
from edgekit.measure import machine
from tests.docs.blocks import FEW, SYBIL, enter_folder, leave_folder, run_bash

BEHIND = re.compile(r"\s*```text\n(.*?)```", re.DOTALL)
HOME = "/home/you"
"""Stands for the folder in which a page ran."""
RECORDED = re.compile(r"(?<=<!-- recorded -->\n).*\n")


def record(page: Path) -> None:
    """Run a page and rewrite its outputs."""
    document = SYBIL.parse(page)
    text, outputs = document.text, []
    document.namespace["recording"] = True
    document.namespace["demo_run"] = lambda path: run_bash(f"edgekit demo {FEW} -o {path}", Path.cwd())
    enter_folder(document.namespace)
    try:
        for example in document.examples():
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                try:
                    example.evaluate()
                except SkipTest:
                    continue
            behind = BEHIND.match(text, example.region.end)
            if behind:
                output = document.namespace.pop("output", "") or printed.getvalue()
                outputs.append((behind.span(1), output.replace(str(Path.cwd()), HOME)))
    finally:
        leave_folder(document.namespace)
    for (start, end), output in reversed(outputs):
        lines = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
        text = text[:start] + lines + text[end:]
    day, cpu = f"{datetime.now(UTC):%Y-%m-%d}", machine.describe().cpu or "unknown processor"
    page.write_text(stamped(text, day, cpu), encoding="utf-8")


def stamped(page: str, day: str, cpu: str) -> str:
    """The page with the sentence that says when and where its outputs were recorded."""
    sentence = f"The outputs on this page are of {day}, from an {processor(cpu)}; later versions may print more.\n"
    return RECORDED.sub(sentence, page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(Path(name).absolute())
