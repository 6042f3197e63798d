"""Single options that several commands share."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import completion, panels
from edgekit.cli.checks import check_seed
from edgekit.compat.typer import REQUIRED
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.registry import PageScheme

RUNTIME_NAMES = ", ".join(
    runtime.name + (f" (or {', '.join(runtime.aliases)})" if runtime.aliases else "") for runtime in RUNTIMES.values()
)
"""The names that `--target` takes, in words."""
EVERY_CORE = "one for each physical core"
MOST_THREADS = 1024
MOST_STREAMS = 256

Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_THREADS,
        metavar="N",
        show_default=EVERY_CORE,
        rich_help_panel=panels.MEASUREMENT,
        help="Number of threads that the runtime uses.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        callback=check_seed,
        metavar="N",
        rich_help_panel=panels.IMAGES,
        help="Seed for the choice of images and for random weights.",
    ),
]
EvalCount = Annotated[
    int | None,
    typer.Option(
        "--num-eval-samples",
        min=1,
        metavar="N",
        show_default="all",
        rich_help_panel=panels.IMAGES,
        help="Number of images to evaluate on, of each class in proportion to its size.",
    ),
]
Warmup = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", rich_help_panel=panels.MEASUREMENT, help="Untimed inferences before the timed ones."
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        show_default="200, or from 100 on as few as make the speedups precise",
        rich_help_panel=panels.MEASUREMENT,
        help="Timed inferences of each bundle.",
    ),
]
Sustain = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        rich_help_panel=panels.MEASUREMENT,
        help="Run for this long, such as 90s, 10m or 1h30m, in place of --iterations, and report a time series with "
        "its first and last minute.",
    ),
]
Streams = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_STREAMS,
        metavar="N",
        show_default="not measured",
        rich_help_panel=panels.MEASUREMENT,
        help="Also measure the images per second of this many sessions side by side. They share the cores unless "
        "--threads states each one's threads.",
    ),
]
_data = functools.partial(
    typer.Option,
    "--data",
    metavar="PATH",
    rich_help_panel=panels.IMAGES,
    help="Labelled images: a folder or a zip with one folder of images for each class, a CSV of path and label, "
    "Parquet, or tar shards of WebDataset. If it has the splits train and val (or test), train is for the calibration, "
    "and val for the evaluation.",
)
Labelled = Annotated[Path | None, _data(show_default=REQUIRED)]
LabelledOptional = Annotated[Path | None, _data()]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "--runtime",
        metavar="RUNTIME",
        autocompletion=completion.runtimes,
        show_default="all",
        rich_help_panel=panels.BUNDLES,
        help=f"Runtimes to compile for: {RUNTIME_NAMES}. Repeatable, or a list such as onnx,tflite.",
    ),
]
DeviceClassName = Annotated[
    str | None,
    typer.Option(
        "--device-class",
        metavar="NAME",
        autocompletion=completion.device_classes,
        show_default="the class of the first device",
        rich_help_panel=panels.BUNDLES,
        help="Device class that the bundles are made for, or a TOML file that describes one. `edgekit targets` lists "
        "the classes.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        autocompletion=completion.recipes,
        show_default="the recipe of the model's family",
        rich_help_panel=panels.BUNDLES,
        help="Recipe to calibrate with, or a TOML file that holds one. `edgekit targets` lists the recipes.",
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        autocompletion=completion.measuring_devices,
        show_default="local",
        rich_help_panel=panels.DEVICE,
        help="Devices to measure on: local (this machine), names from `edgekit devices list`, ssh://USER@HOST, or web "
        "for a browser, such as a phone's, that opens the address which edgekit shows. Repeatable, or a list such as "
        "local,pi5,web:pixel.",
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
EvaluationDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        autocompletion=completion.evaluation_devices,
        rich_help_panel=panels.DEVICE,
        help="Device to evaluate on: local (this machine), or web for a browser, such as a phone's, that opens the "
        "address which edgekit shows. A browser runs bundles for LiteRT.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        rich_help_panel=panels.DEVICE,
        help="Download the device's packages on this machine and copy them over, for a device without internet access.",
    ),
]
WebRuntime = Annotated[
    Path | None,
    typer.Option(
        "--web-runtime",
        metavar="FILE",
        show_default="npm downloads it once",
        rich_help_panel=panels.DEVICE,
        help="Package file of LiteRT.js, which runs bundles in browsers.",
    ),
]
WebNetwork = Annotated[
    PageScheme | None,
    typer.Option(
        "--web-network",
        show_default="this machine alone",
        rich_help_panel=panels.DEVICE,
        help="Serve the page for browsers to the network, too. Over https it may keep the screen on, use threads and "
        "read a finer clock, as on this machine; the browser warns of the certificate, which is made for the command.",
    ),
]
Scheme = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        metavar="SCHEME",
        autocompletion=completion.schemes,
        show_default="the recipe's",
        rich_help_panel=panels.BUNDLES,
        help="INT8 scheme: w8a8 quantizes weights and activations; w8 quantizes the weights alone, which makes the "
        "file smaller and computes in float.",
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
        rich_help_panel=panels.OUTPUT,
        help="Print a table with every column that fits the terminal, instead of the short answer.",
    ),
]
NoThumbnails = Annotated[
    bool,
    typer.Option(
        "--no-thumbnails",
        rich_help_panel=panels.OUTPUT,
        help="Leave thumbnails of the images that INT8 classifies differently out of report.html.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", rich_help_panel=panels.OUTPUT, help="Check the input and print the plan, without writing anything."
    ),
]
