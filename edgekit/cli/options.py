"""Options that several commands share, and how their text becomes values."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.errors import UsageError
from edgekit.targets import TARGETS, find_target

Model = Annotated[str, typer.Argument(help="timm name, such as convnextv2_atto.fcmae_ft_in1k, or module:factory.")]
Data = Annotated[Path | None, typer.Option("--data", help="Images by class: a folder or a zip.")]
CalibrationData = Annotated[
    Path | None, typer.Option(help="Images to calibrate on. [default: some of --data, kept out of the evaluation]")
]
Weights = Annotated[str | None, typer.Option(help="Checkpoint (.safetensors, .pth), or 'random'.")]
Target = Annotated[
    list[str] | None, typer.Option("--target", help=f"Runtime, repeatable: {', '.join(TARGETS)}. [default: all]")
]
Device = Annotated[list[str] | None, typer.Option("--device", help="Where to measure, repeatable. [default: local]")]
DeviceClass = Annotated[
    str | None, typer.Option(help="Class or TOML that bundles are made for. [default: this machine's]")
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Recipe or TOML. [default: the model family's]")]
ModelArgs = Annotated[str | None, typer.Option(help="KEY=VALUE,… for the model's constructor.")]
Imgsz = Annotated[str | None, typer.Option(help="Input side in pixels, or HEIGHTxWIDTH.")]
Mean = Annotated[str | None, typer.Option(help="R,G,B in 0-1.")]
Std = Annotated[str | None, typer.Option(help="R,G,B in 0-1.")]
Interpolation = Annotated[str | None, typer.Option(help="bicubic, bilinear, …")]
CropPct = Annotated[float | None, typer.Option(help="Share of the resized image that the crop keeps.")]
Labels = Annotated[Path | None, typer.Option(help="Class names, one a line.")]
CalibrationCount = Annotated[int | None, typer.Option("--num-calibration-samples", help="[default: the recipe's]")]
EvalCount = Annotated[int | None, typer.Option("--num-eval-samples", help="[default: all images left]")]
Seed = Annotated[int, typer.Option(help="Chooses the images, and random weights.")]
Threads = Annotated[int | None, typer.Option(help="[default: all cores]")]
Warmup = Annotated[int, typer.Option(min=0, help="Untimed rounds.")]
Iterations = Annotated[int, typer.Option(min=1, help="Timed rounds.")]
MaxDrop = Annotated[float, typer.Option(help="Points of top-1 that an int8 bundle may lose.")]
MinSpeedup = Annotated[float, typer.Option(help="Factor that int8 must be faster than float by; 0: no gate.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run folder. [default: runs/MODEL]")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the input, say what would be done, write nothing.")]


def targets_of(names: list[str] | None) -> tuple[str, ...]:
    """Names that were asked for, checked, each once; all without any."""
    return tuple(dict.fromkeys(find_target(name).name for name in names)) if names else tuple(TARGETS)


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """Pixels of "224" or "224x320"."""
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UsageError(f"--imgsz is '{text}': give a number of pixels such as 224, or HEIGHTxWIDTH such as 224x320.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def triple_of(name: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers of "0.5,0.5,0.5"."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise UsageError(f"--{name} is '{text}': give three numbers such as 0.485,0.456,0.406.")
    return values


def check_devices(devices: list[str] | None) -> None:
    """Only this machine can measure in this version."""
    for device in devices or ():
        if device != "local":
            raise UsageError(f"unknown device '{device}': valid is local. Leave --device out to measure here.")
