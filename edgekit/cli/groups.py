"""Groups of options that several commands share, as dataclasses: a command takes a group as one argument."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import completion, panels
from edgekit.cli.shared import (
    DeviceClassName,
    Devices,
    Iterations,
    Labelled,
    NoThumbnails,
    Offline,
    RecipeName,
    Scheme,
    Seed,
    Targets,
    Threads,
    Warmup,
    WebNetwork,
    WebRuntime,
)
from edgekit.config.interpolations import INTERPOLATIONS
from edgekit.config.precisions import PRECISIONS

MOST_SPEEDUP = 1000


@dataclass
class Source:
    """The model's constructor and its preprocessing; the weights are in `Making`."""

    model_args: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE",
            rich_help_panel=panels.MODEL,
            help="Arguments for the model's constructor, separated by commas, such as num_classes=10,conv_mlp=True. "
            "A checkpoint gives num_classes itself.",
        ),
    ] = None
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            show_default="the model's own",
            rich_help_panel=panels.MODEL,
            help="Input size in pixels: one side, such as 224, or HEIGHTxWIDTH, such as 224x320.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            show_default="the model's own",
            rich_help_panel=panels.MODEL,
            help="Mean of the red, green and blue channels, or of grey images, on a scale of 0 to 1.",
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            show_default="the model's own",
            rich_help_panel=panels.MODEL,
            help="Standard deviation of the same channels, on a scale of 0 to 1.",
        ),
    ] = None
    interpolation: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            autocompletion=completion.interpolations,
            show_default="the model's own",
            rich_help_panel=panels.MODEL,
            help=f"Filter that resizes images: {', '.join(INTERPOLATIONS)}.",
        ),
    ] = None
    crop_pct: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1,
            metavar="FRACTION",
            show_default="the model's own",
            rich_help_panel=panels.MODEL,
            help="Fraction of the resized image's side that the central crop keeps.",
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="those in the model's file, those of the images, or ImageNet's for 1000 classes",
            rich_help_panel=panels.MODEL,
            help="Text file with one class name per line, in the order of the model's outputs.",
        ),
    ] = None


@dataclass
class Making:
    """The weights and images that bundles are made from, what they are made for, and the run folder."""

    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            autocompletion=completion.weights,
            show_default="the published weights",
            rich_help_panel=panels.MODEL,
            help="Checkpoint (.safetensors, .pth or .ckpt), folder that save_pretrained wrote, or random for untrained "
            "weights.",
        ),
    ] = None
    data: Labelled = None
    target: Targets = None
    device_class: DeviceClassName = None
    recipe: RecipeName = None
    seed: Seed = 0
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            show_default="runs/MODEL",
            rich_help_panel=panels.OUTPUT,
            help="Run folder for the bundles and reports.",
        ),
    ] = None


@dataclass
class Calibrating:
    """The images to calibrate on."""

    calibration_data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default="the split train of --data, or else a part that is left out of the evaluation",
            rich_help_panel=panels.IMAGES,
            help="Images to calibrate on, in any layout that --data takes.",
        ),
    ] = None
    num_calibration_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="the recipe's",
            rich_help_panel=panels.IMAGES,
            help="Number of images to calibrate on, spread evenly over the classes.",
        ),
    ] = None
    calibration_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=panels.IMAGES,
            help="The calibration.json of an earlier run. Its images and recipe reproduce the same bundles.",
        ),
    ] = None


@dataclass
class Wanted:
    """Bundles to make, their INT8 scheme, and whether to check the calibration's stability and to repair bundles."""

    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION",
            autocompletion=completion.precisions,
            show_default="both",
            rich_help_panel=panels.BUNDLES,
            help=f"Precisions of the bundles to make: {', '.join(PRECISIONS)}. Repeatable, or a list with commas.",
        ),
    ] = None
    scheme: Scheme = None
    check_stability: Annotated[
        bool,
        typer.Option(
            "--check-stability",
            rich_help_panel=panels.BUNDLES,
            help="Calibrate on each half of the images as well, and compare the results.",
        ),
    ] = False
    no_repair: Annotated[
        bool,
        typer.Option(
            "--no-repair",
            rich_help_panel=panels.GATES,
            help="Leave an int8 bundle that misses --max-drop as it is. Otherwise edgekit ranks its layers on "
            "calibration images, keeps the noisiest in float and measures again, at most three times, as long as int8 "
            "stays faster than float.",
        ),
    ] = False


@dataclass
class Measuring:
    """Devices, settings of the measurements, and the gates."""

    num_eval_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="all that are left",
            rich_help_panel=panels.IMAGES,
            help="Number of images to evaluate on, of each class in proportion to its size. Images that were "
            "calibrated on are never among them.",
        ),
    ] = None
    device: Devices = None
    offline: Offline = False
    web_runtime: WebRuntime = None
    web_network: WebNetwork = None
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            rich_help_panel=panels.BUNDLES,
            help="Build bundles even if `edgekit plan` predicts that they won't fit in this machine's memory or disk.",
        ),
    ] = False
    threads: Threads = None
    warmup: Warmup = 20
    iterations: Iterations = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            show_default="the measured loss may be 1 point, whatever its interval",
            rich_help_panel=panels.GATES,
            help="Largest loss of top-1 accuracy, in percentage points, with which an int8 bundle passes. The whole "
            "95 % confidence interval of the loss must lie within it.",
        ),
    ] = None
    min_speedup: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_SPEEDUP,
            metavar="FACTOR",
            show_default="1",
            rich_help_panel=panels.GATES,
            help="Required speedup of an int8 bundle over its runtime's fastest float, bf16 and f16 included. The "
            "whole 95 % confidence interval must lie above it. 0 turns the gate off.",
        ),
    ] = None
    no_thumbnails: NoThumbnails = False


@dataclass
class ForPipelines:
    """Files in which a pipeline looks for the result. They are also written if a gate fails."""

    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=panels.OUTPUT,
            help="JUnit XML file to write, with a test case for each row and gate.",
        ),
    ] = None
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=panels.OUTPUT,
            help="File to append a summary in Markdown to, such as $GITHUB_STEP_SUMMARY.",
        ),
    ] = None
