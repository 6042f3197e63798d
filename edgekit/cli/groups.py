"""Options that several commands share, as dataclasses: a command takes a group as one argument."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgekit.config.precisions import PRECISIONS
from edgekit.config.runtimes import RUNTIMES

Threads = Annotated[int | None, typer.Option(help="Threads to run on. [default: all cores]")]
Seed = Annotated[int, typer.Option(help="Chooses the images, and random weights.")]
EvalCount = Annotated[
    int | None, typer.Option("--num-eval-samples", help="Images to evaluate on. [default: all that are left]")
]
Warmup = Annotated[int, typer.Option(min=0, help="Untimed rounds.")]
Iterations = Annotated[int, typer.Option(min=1, help="Timed rounds.")]
Sustain = Annotated[
    str | None,
    typer.Option(help="Time for so long instead, such as 10m or 90s: a time series, its first and its last minute."),
]
Labelled = Annotated[Path | None, typer.Option("--data", help="Images by class: a folder or a zip.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="Where to measure, repeatable: local, a name, or ssh://USER@HOST. [default: local]"),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Fetch a device's packages here, for a device without network.")
]
Scheme = Annotated[
    str | None,
    typer.Option(
        "--scheme", help="What int8 is: w8a8, or w8, weights alone, smaller but in float. [default: the recipe's]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the input, say what would be done, write nothing.")]


@dataclass
class Source:
    """Where the network comes from, but for its weights, and how it takes images."""

    model_args: Annotated[str | None, typer.Option(help="KEY=VALUE,… for the model's constructor.")] = None
    imgsz: Annotated[str | None, typer.Option(help="Input side in pixels, or HEIGHTxWIDTH.")] = None
    mean: Annotated[str | None, typer.Option(help="R,G,B in 0-1.")] = None
    std: Annotated[str | None, typer.Option(help="R,G,B in 0-1.")] = None
    interpolation: Annotated[str | None, typer.Option(help="bicubic, bilinear, …")] = None
    crop_pct: Annotated[float | None, typer.Option(help="Share of the resized image that the crop keeps.")] = None
    labels: Annotated[Path | None, typer.Option(help="Class names, one a line.")] = None


@dataclass
class Making:
    """What bundles are made from, for what, and where they go."""

    weights: Annotated[str | None, typer.Option(help="Checkpoint (.safetensors, .pth), or 'random'.")] = None
    data: Labelled = None
    target: Annotated[
        list[str] | None, typer.Option(help=f"Runtime, repeatable: {', '.join(RUNTIMES)}. [default: all]")
    ] = None
    device_class: Annotated[
        str | None, typer.Option(help="Class or TOML that bundles are made for. [default: this machine's]")
    ] = None
    recipe: Annotated[str | None, typer.Option(help="Recipe or TOML. [default: the model family's]")] = None
    seed: Seed = 0
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder. [default: runs/MODEL]")] = None


@dataclass
class Calibrating:
    """The images to calibrate on."""

    calibration_data: Annotated[
        Path | None, typer.Option(help="Images to calibrate on. [default: some of --data, kept out of the evaluation]")
    ] = None
    num_calibration_samples: Annotated[int | None, typer.Option(help="[default: the recipe's]")] = None
    calibration_list: Annotated[
        Path | None, typer.Option(help="A run's calibration.json: its images and recipe, which give the same bundles.")
    ] = None


@dataclass
class Wanted:
    """Which bundles, what int8 is in them, and whether to look twice."""

    precision: Annotated[
        list[str] | None,
        typer.Option(help=f"Bundles to make, repeatable: {', '.join(PRECISIONS)}. [default: both]"),
    ] = None
    scheme: Scheme = None
    check_stability: Annotated[
        bool, typer.Option("--check-stability", help="Calibrate on two halves of the images too, and compare them.")
    ] = False


@dataclass
class Measuring:
    """How and where to measure, and the gates."""

    num_eval_samples: EvalCount = None
    device: Devices = None
    offline: Offline = False
    force: Annotated[bool, typer.Option("--force", help="Begin also what the plan says can't be finished.")] = False
    threads: Threads = None
    warmup: Warmup = 20
    iterations: Iterations = 200
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of top-1 that an int8 bundle may lose, its 95 % interval included. [default: 1, without it]"
        ),
    ] = None
    min_speedup: Annotated[
        float | None,
        typer.Option(
            help="Factor that int8 must be faster than float by, its 95 % interval included; 0: no gate. [default: 1]"
        ),
    ] = None


def flat(command: Callable[..., int]) -> Callable[..., int]:
    """Let Typer see the fields of the groups that a command takes as options of the command."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**given: Any) -> int:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        return command(**given, **made)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    assert all(each.default is not MISSING for each in fields(group))  # what is required is an argument, not an option
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(group)
    ]
