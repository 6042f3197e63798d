"""Runs `edgekit deploy` for action.yml, whose inputs are in the environment, and writes its outputs."""

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


def command_of(environment: Mapping[str, str], junit: Path) -> list[str]:
    """The command line. Raises ValueError for arguments whose quotes don't match."""
    targets = environment["EDGEKIT_TARGETS"].replace(",", " ").split()
    command = ["edgekit", "deploy", environment["EDGEKIT_MODEL"], *shlex.split(environment["EDGEKIT_ARGS"])]
    command += ["--data", environment["EDGEKIT_DATA"], *(f"--target={target}" for target in targets)]
    command += ["--output", environment["EDGEKIT_OUTPUT"], "--junit", str(junit)]
    summary = environment.get("GITHUB_STEP_SUMMARY")
    return [*command, "--summary", summary] if summary else command


def main() -> int:
    """Run the command, append the outputs to the file $GITHUB_OUTPUT, and return edgekit's exit code."""
    run = Path(os.environ["EDGEKIT_OUTPUT"])
    report, junit = run / "report.json", run / "junit.xml"
    if not run.exists():
        run.mkdir(parents=True)  # for the JUnit file
    try:
        code = subprocess.run(command_of(os.environ, junit), check=False).returncode
    except ValueError as error:
        print(f"::error::the input args is '{os.environ['EDGEKIT_ARGS']}': {error}")
        code = WRONG_INPUT
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"exit-code={code}\n")
        for name, file in (("report", report), ("junit", junit)):
            written = code in FINISHED and file.exists()  # another file is from an earlier job
            outputs.write(f"{name}={file if written else ''}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
