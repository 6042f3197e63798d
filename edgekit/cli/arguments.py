"""Arguments and options that several commands share and that state no field of a job."""

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

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


NEEDED: Any = inspect.Parameter.empty
"""The default of an option that must be given."""


@dataclass(frozen=True)
class OwnOption:
    """An option that states no field of the job, as the default of a command's parameter."""

    value: Any
    """Its default, or `NEEDED`."""
    typers: OptionInfo
    """Its declaration for Typer."""


def option(
    panel: str, metavar: str | None, help: str, *, value: Any = None, flags: tuple[str, ...] = (), **more: Any
) -> Any:
    """An option of a command's own, for `edgekit.cli.command.states`. `more` are further arguments of Typer's."""
    return OwnOption(value, typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=panel, **more))


model_option = partial(option, panels.MODEL)
image_option = partial(option, panels.IMAGES)
bundle_option = partial(option, panels.BUNDLES)
search_option = partial(option, panels.SEARCH)
device_option = partial(option, panels.DEVICE)
timing_option = partial(option, panels.MEASUREMENT)
gate_option = partial(option, panels.GATES)
output_option = partial(option, panels.OUTPUT)

JUNIT = output_option("FILE", "JUnit XML file to write, with a test case for each row and gate.")
SUMMARY = output_option("FILE", "File to append a summary in Markdown to, such as $GITHUB_STEP_SUMMARY.")
JSON = output_option(None, "Print the result as one JSON document on stdout.", value=False, flags=("--json",))
QUIET = output_option(None, "Show no progress. Warnings are still printed.", value=False, flags=("--quiet", "-q"))
WIDE = output_option(
    None,
    "Print a table with every column that fits the terminal, instead of the short answer.",
    value=False,
    flags=("--wide",),
    hidden=True,
)
DRY_RUN = output_option(
    None,
    "Check the input and print what the job would make, with memory, time and sizes. Writes nothing.",
    value=False,
    flags=("--dry-run",),
)
