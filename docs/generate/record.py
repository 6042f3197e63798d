"""Writes what the code blocks of pages print into the `text` blocks behind them.

    python -m docs.generate.record docs/tutorials/your-own-model.md ...

It runs a page's blocks as the tests do. A block whose output is not shown has no `text` block right behind it.
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from unittest import SkipTest

from tests.docs.blocks import FEW, SYBIL, enter_folder, leave_folder, run_bash

BEHIND = re.compile(r"\s*```text\n(.*?)```", re.DOTALL)


def record(page: Path) -> None:
    """Run a page and rewrite its outputs."""
    document = SYBIL.parse(page)
    text, outputs = document.text, []
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
                outputs.append((behind.span(1), document.namespace.pop("output", "") or printed.getvalue()))
    finally:
        leave_folder(document.namespace)
    for (start, end), output in reversed(outputs):
        lines = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
        text = text[:start] + lines + text[end:]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(Path(name).absolute())
