"""Arguments and options that several commands share and that state no field of a job."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import typer
from typer.models import ParameterInfo

from edgekit.cli import completion, panels

NAMES = (
    "timm name such as convnextv2_atto.fcmae_ft_in1k, torchvision:NAME, open_clip:NAME, hf_hub:USER/MODEL, "
    "module:factory for your own code"
)
"""The names of models, which are known without a file."""
MODELS = f"{NAMES}, or the path of a .onnx file, a checkpoint or a folder that save_pretrained wrote"
NEEDED: Any = ...
"""The default of an option that must be given."""


def option(
    panel: str, metavar: str | None, help: str, *, value: Any = None, flags: tuple[str, ...] = (), **more: Any
) -> Any:
    """An option of a command's own. `more` are further arguments of Typer's."""
    return typer.Option(value, *flags, metavar=metavar, help=help, rich_help_panel=panel, **more)


def argument(metavar: str, help: str, *, value: Any = NEEDED, **more: Any) -> Any:
    """An argument of a command, otherwise as `option`."""
    return typer.Argument(value, metavar=metavar, help=help, **more)


model_argument = partial(argument, "MODEL", autocompletion=completion.models)
model_option = partial(option, panels.MODEL)
image_option = partial(option, panels.IMAGES)
bundle_option = partial(option, panels.BUNDLES)
device_option = partial(option, panels.DEVICE)
timing_option = partial(option, panels.MEASUREMENT)
gate_option = partial(option, panels.GATES)
output_option = partial(option, panels.OUTPUT)

ONE_MODEL = model_argument(f"A {MODELS}.")
MODEL_OR_RUN = model_argument(f"A {MODELS}; a run folder, whose job is used; or a TOML file with a job.")
MODEL_OR_RUN_OR_DEMO = model_argument(
    f"A run folder, whose job is used; demo for edgekit's own model; a TOML file with a job; or a {MODELS}.",
    autocompletion=completion.models_and_demo,
)
BUNDLES = argument("BUNDLE", "Bundle folders, or run folders for all of their bundles.")
BUNDLE = argument("BUNDLE", "A bundle folder.")
COMMON: Mapping[str, ParameterInfo] = {
    "junit": output_option("FILE", "JUnit XML file to write, with a test case for each row and gate."),
    "summary": output_option("FILE", "File to append a summary in Markdown to, such as $GITHUB_STEP_SUMMARY."),
    "json_": output_option(None, "Print the result as one JSON document on stdout.", value=False, flags=("--json",)),
    "quiet": output_option(None, "Show no progress. Warnings are still printed.", value=False, flags=("--quiet", "-q")),
    "dry_run": output_option(
        None,
        "Check the input and print what the job would make, with memory, time and sizes. Writes nothing.",
        value=False,
        flags=("--dry-run",),
    ),
}
"""Options of many commands, which follow a command's own, by the names of the parameters that get them."""
