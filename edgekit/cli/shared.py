"""Options that several commands share and that state no field of a job."""

from typing import Annotated

import typer

from edgekit.cli import completion, panels

OneDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        autocompletion=completion.devices,
        rich_help_panel=panels.DEVICE,
        help="Device to run on: local (this machine), a name from `edgekit devices list`, or ssh://USER@HOST.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=panels.OUTPUT, help="Print the result as one JSON document on stdout."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=panels.OUTPUT, help="Show no progress. Warnings are still printed."),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        hidden=True,
        rich_help_panel=panels.OUTPUT,
        help="Print a table with every column that fits the terminal, instead of the short answer.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=panels.OUTPUT,
        help="Check the input and print what the job would make, with memory, time and sizes. Writes nothing.",
    ),
]
