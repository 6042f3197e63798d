"""Arguments and options that several commands share and that state no field of a job."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import completion, panels

NAMES = (
    "timm name such as convnextv2_atto.fcmae_ft_in1k, torchvision:NAME, open_clip:NAME, hf_hub:USER/MODEL, "
    "module:factory for your own code"
)
"""The names of models, which are known without a file."""
MODELS = f"{NAMES}, or the path of a .onnx file, a checkpoint or a folder that save_pretrained wrote"
Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models, help=f"A {MODELS}.")]
ModelOrRun = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models,
        help=f"A {MODELS}; a run folder, whose job is used; or a TOML file with a job.",
    ),
]
ModelOrRunOrDemo = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models_and_demo,
        help=f"A run folder, whose job is used; demo for edgekit's own model; a TOML file with a job; or a {MODELS}.",
    ),
]
ModelOrGraphs = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        autocompletion=completion.models,
        help=f"A folder that `edgekit quantize` wrote; or a model to compile in float: a {MODELS}.",
    ),
]
Bundles = Annotated[
    list[Path], typer.Argument(metavar="BUNDLE", help="Bundle folders, or run folders for all of their bundles.")
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder.")]
Junit = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=panels.OUTPUT,
        help="JUnit XML file to write, with a test case for each row and gate.",
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=panels.OUTPUT,
        help="File to append a summary in Markdown to, such as $GITHUB_STEP_SUMMARY.",
    ),
]
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
