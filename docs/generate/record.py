"""Writes what the code blocks of pages print into the `text` blocks behind them.

    python -m docs.generate.record docs/tutorials/your-own-model.md ...

It runs a page's blocks as the tests do, and those that are skipped `if(not recording, ...)`. A block whose output is
not shown has no `text` block right behind it. The line behind `<!-- recorded -->` gets the commit, the day and the
processor. It waits for an idle machine.
"""

import contextlib
import io
import re
import sys
from functools import partial
from pathlib import Path
from unittest import SkipTest

from benchmarks.machine import when_idle
from benchmarks.recording import Recording, new_recording
from tests.docs.blocks import FEW, SYBIL, enter_folder, leave_folder, run_bash

BEHIND = re.compile(r"\s*```text\n(.*?)```", re.DOTALL)
HOME = "/home/you"
"""Stands for the folder in which a page ran."""
RECORDED = re.compile(r"(?<=<!-- recorded -->\n).*\n")


def record(page: Path) -> str:
    """Run a page; return its text with the new outputs."""
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
    return text


def stamped(page: str, recording: Recording) -> str:
    """The page with the sentence that says of which commit, day and machine its outputs are."""
    where = f"of {recording.date} and commit {recording.commit}, from an {recording.cpu}"
    return RECORDED.sub(f"The outputs on this page are {where}; later versions may print more.\n", page)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        recording = new_recording()
        text, _ = when_idle(partial(record, page.absolute()), page.name)
        page.write_text(stamped(text, recording), encoding="utf-8")
