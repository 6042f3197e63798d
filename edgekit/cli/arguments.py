"""Positional arguments of the commands."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="timm name, such as convnextv2_atto.fcmae_ft_in1k, open_clip:NAME or module:factory.")
]
Bundles = Annotated[list[Path], typer.Argument(help="Bundle folders.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle folder.")]
