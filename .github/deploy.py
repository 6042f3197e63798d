"""Runs `edgekit deploy` for action.yml, whose inputs are in the environment, and writes its outputs."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

FINISHED = (0, 1)
"""Exit codes of edgekit behind which the run folder has a report."""
WRONG_INPUT = 2
"""Exit code of edgekit for wrong input."""


SINGULAR = {"targets": "target", "precisions": "precision", "devices": "device"}
"""Options whose input is called otherwise."""


def command_of(inputs: Mapping[str, str], junit: Path, summary: str | None) -> list[str]:
    """The command line. Raises ValueError for arguments whose quotes don't match, and for a folder of two lines.

    The model comes last and behind `--`, so that none is taken for an option.
    """
    values = {name: value for name, value in inputs.items() if value and name != "pip-args"}
    if len(values["output"].splitlines()) > 1:
        raise ValueError("output has a line break")  # which would end an output of the action
    model = values.pop("model")
    command = ["edgekit", "deploy", *shlex.split(values.pop("args", ""))]
    for name, value in values.items():
        listed = ",".join(value.replace(",", " ").split()) if name in SINGULAR else value
        command.append(f"--{SINGULAR.get(name, name)}={listed}")
    command += ["--junit", str(junit), *(["--summary", summary] if summary else [])]
    return [*command, "--", model]


def main() -> int:
    """Run the command, append the outputs to the file $GITHUB_OUTPUT, and return edgekit's exit code."""
    inputs = json.loads(os.environ["EDGEKIT_INPUTS"])
    run = Path(inputs["output"])
    report, junit = run / "report.json", run / "junit.xml"
    try:
        command = command_of(inputs, junit, os.environ.get("GITHUB_STEP_SUMMARY"))
        run.mkdir(parents=True, exist_ok=True)  # for the JUnit file
        code = subprocess.run(command, check=False).returncode
    except ValueError as error:
        print(f"::error::the input args is {inputs['args']!r}, and output is {inputs['output']!r}: {error}")
        code = WRONG_INPUT
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"exit-code={code}\n")
        for name, file in (("report", report), ("junit", junit)):
            written = code in FINISHED and file.exists()  # another file is from an earlier job
            outputs.write(f"{name}={file if written else ''}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
