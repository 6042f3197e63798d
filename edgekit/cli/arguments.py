"""Positional arguments of the commands."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import completion

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models,
        help="A timm name such as convnextv2_atto.fcmae_ft_in1k, torchvision:NAME, open_clip:NAME, hf_hub:USER/MODEL, "
        "module:factory for your own code, or the path of a .onnx file, a checkpoint or a folder that save_pretrained "
        "wrote.",
    ),
]
ModelOrRun = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=completion.models,
        help="A timm name such as convnextv2_atto.fcmae_ft_in1k, open_clip:NAME, module:factory for your own code, "
        "the path of a .onnx file, or a run folder, whose job is used.",
    ),
]
Bundles = Annotated[
    list[Path], typer.Argument(metavar="BUNDLE", help="Bundle folders, or run folders for all of their bundles.")
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder.")]
