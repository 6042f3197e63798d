"""The job: a model, images, what to make of them, where to measure it, and the bounds that it must keep."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import (
    CROP_MODES,
    FORMS,
    INPUT_LAYOUTS,
    INTERPOLATIONS,
    PRECISIONS,
    RUNTIMES,
    SCHEMES,
    TASKS,
    DeviceClass,
    Form,
    InputDtype,
    Precision,
    Runtime,
    Scheme,
)
from edgekit.devices.registry import THIS, Device, PageScheme
from edgekit.errors import UsageError, did_you_mean
from edgekit.job import kinds
from edgekit.job.kinds import OPTION, Option, Own
from edgekit.measure.settings import Gates, Timing
from edgekit.models.demo import OUTPUT, assets, demo_model
from edgekit.models.options import ModelArgs, ModelOptions
from edgekit.support.files import check_file

DEMO = "demo"
"""Name of the model and images that come with edgekit."""
LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024
MOST_SPEEDUP = 1000
EVERY_CORE = "one for each physical core"
OF_BUNDLE = "the bundle's own, or one for each physical core"
MODEL = ("weights", "model_args", "imgsz", "mean", "std", "interpolation", "crop_pct", "crop_mode", "labels")
"""The fields that describe a model."""
ORDERED = ("data", "calibration_data", "labels")
"""The fields whose values in memory keep their form and order."""
MAKING = (
    *MODEL,
    "task",
    "data",
    "calibration_data",
    "num_calibration_samples",
    "calibration_list",
    "seed",
    "targets",
    "recipe",
    "device_class",
    "scheme",
    "preprocessing",
    "input_dtype",
    "output",
)
"""The fields that decide how bundles are made."""
MEASURING = ("devices", "wheels", "web_runtime", "web_network", "threads", "warmup", "iterations", "min_speedup")
"""The fields that decide how bundles are timed."""

model_option = partial(kinds.option, "Model")
image_option = partial(kinds.option, "Images")
bundle_option = partial(kinds.option, "Bundles")
device_option = partial(kinds.option, "Device")
timing_option = partial(kinds.option, "Measurement")
gate_option = partial(kinds.option, "Gates")
output_option = partial(kinds.option, "Output")

Stated = Mapping[str, Any]
"""Values by the names of the fields that were stated, as a command line, a file or a caller gave them."""


@dataclass(frozen=True)
class Job:
    """Everything that decides what a deployment makes and measures.

    `of` makes one from what a user states. The command line, the Python call, job.json, TOML files, the reference and
    the Action's inputs derive from these fields.
    """

    model: str | ModelOptions
    """Name or path of the model, or the options of a network in memory; empty for measurements of bundles."""
    data: Any = image_option(
        kinds.Images(),
        "Images with labels: a folder or a zip with one folder of images for each class, or a JSON beside each image; "
        "a CSV of path and label, Parquet, or tar shards of WebDataset. Or images that all have none. If it has the "
        "splits train and val (or test), train is for the calibration, and val for the evaluation.",
    )
    _: KW_ONLY
    weights: str | None = model_option(
        kinds.Text(kinds.check_weights, metavar="FILE"),
        "Checkpoint (.safetensors, .pth or .ckpt), folder that save_pretrained wrote, or random for untrained weights.",
        default="the published weights",
    )
    model_args: ModelArgs | None = model_option(
        kinds.Arguments(),
        "Arguments for the model's constructor, separated by commas, such as num_classes=10,conv_mlp=True. A "
        "checkpoint gives num_classes itself.",
        advanced=True,
    )
    imgsz: int | tuple[int, int] | None = model_option(
        kinds.Size(),
        "Input size in pixels: one side, such as 224, or HEIGHTxWIDTH, such as 224x320.",
        default="the model's own",
    )
    mean: tuple[float, ...] | None = model_option(
        kinds.Channels("0.485,0.456,0.406"),
        "Mean of the red, green and blue channels, or of grey images, on a scale of 0 to 1.",
        default="the model's own",
    )
    std: tuple[float, ...] | None = model_option(
        kinds.Channels("0.229,0.224,0.225", above_zero=True),
        "Standard deviation of the same channels, on a scale of 0 to 1.",
        default="the model's own",
    )
    interpolation: str | None = model_option(
        kinds.OneOf(INTERPOLATIONS, metavar="FILTER"),
        f"Filter that resizes images: {', '.join(INTERPOLATIONS)}.",
        default="the model's own",
        advanced=True,
    )
    crop_pct: float | None = model_option(
        kinds.Number(0.1, 1, typed=float, metavar="FRACTION"),
        "Fraction of the resized image's side that the central crop keeps.",
        default="the model's own",
    )
    crop_mode: str | None = model_option(
        kinds.OneOf(CROP_MODES, metavar="MODE"),
        "What becomes of photos with another aspect ratio than the input: center crops them, squash distorts them, and "
        "border pads them.",
        default="the model's own",
        advanced=True,
    )
    labels: Path | tuple[str, ...] | None = model_option(
        kinds.ClassNames(kinds.check_labels),
        "Text file with one class name per line, in the order of the model's outputs.",
        default="those in the model's file, those of the images, or ImageNet's for 1000 classes",
    )
    task: str | None = model_option(
        kinds.OneOf(tuple(TASKS), metavar="TASK"),
        f"What the network's outputs mean: {', '.join(f'{name} ({meaning})' for name, meaning in TASKS.items())}.",
        default="multi-label if images have several labels, embedding for a network without a classifier, or else "
        "single-label",
    )
    calibration_data: Any = image_option(
        kinds.Images(),
        "Images to calibrate on, in any layout that --data takes. They need no labels.",
        default="the split train of --data, or else a part that is left out of the evaluation",
    )
    num_calibration_samples: int | None = image_option(
        kinds.Number(1),
        "Number of images to calibrate on, spread evenly over the classes.",
        default="the recipe's",
        advanced=True,
    )
    calibration_list: Path | None = image_option(
        kinds.Place(kinds.check_calibration_list),
        "The calibration.json of an earlier run. Its images, its recipe and the layers that the run kept in float "
        "reproduce the same bundles.",
        advanced=True,
    )
    num_eval_samples: int | None = image_option(
        kinds.Number(1),
        "Number of images to evaluate on, of each class in proportion to its size. Images that were calibrated on are "
        "never among them.",
        default="all that are left, or two thirds of a large set",
    )
    seed: int = image_option(
        kinds.Number(0, LARGEST_SEED), "Seed for the choice of images and for random weights.", value=0, advanced=True
    )
    targets: tuple[str, ...] = bundle_option(
        kinds.Names(kinds.targets, metavar="RUNTIME"),
        f"Runtimes to compile for: {kinds.RUNTIME_NAMES}. Repeatable, or a list such as onnx,tflite.",
        value=tuple(RUNTIMES),
        default="all",
        flags=("--target", "--runtime"),
    )
    precisions: tuple[Precision, ...] = bundle_option(
        kinds.Names(kinds.precisions, metavar="PRECISION"),
        "Precisions of the bundles to make: float (also fp32, fp16 or bf16: the bundle runs in each that the runtime "
        "has) and int8. Repeatable, or a list with commas.",
        value=PRECISIONS,
        default="both",
        flags=("--precision",),
    )
    scheme: Scheme | None = bundle_option(
        kinds.OneOf(SCHEMES, metavar="SCHEME"),
        "INT8 scheme: w8a8 quantizes weights and activations; w8 quantizes the weights alone, which makes the file "
        "smaller and computes in float.",
        default="the recipe's",
        advanced=True,
    )
    preprocessing: Form | Literal["auto"] = bundle_option(
        kinds.OneOf((*FORMS, "auto"), metavar="FORM"),
        "Form of preprocessing that the bundles state: exact resizes the whole photo; fast reduces it by 2, 4 or 8 "
        "before, for which JPEGs needn't be decoded whole; auto lets `edgekit deploy` take the fast form where images "
        "that give no verdict show that it hardly costs anything. Every loss is against float with the exact form.",
        value="exact",
        advanced=True,
    )
    input_dtype: InputDtype = bundle_option(
        kinds.OneOf(tuple(INPUT_LAYOUTS), metavar="TYPE"),
        "Type of the model files' input: float32 for normalized images, NCHW; uint8 for the pixels of cropped images, "
        "NHWC, which the file normalizes itself.",
        value="float32",
        advanced=True,
    )
    recipe: str | None = bundle_option(
        kinds.Text(Recipe.load, metavar="NAME"),
        "Recipe to calibrate with, or a TOML file that holds one. `edgekit targets` lists the recipes.",
        default="the recipe of the model's family",
    )
    device_class: str | None = bundle_option(
        kinds.Text(DeviceClass.load, metavar="NAME"),
        "Device class that the bundles are made for, or a TOML file that describes one. `edgekit targets` lists the "
        "classes.",
        default="the class of the first device",
        advanced=True,
    )
    force: bool = bundle_option(
        kinds.Flag(),
        "Build bundles even if `--dry-run` predicts that they won't fit in this machine's memory or disk.",
        value=False,
        advanced=True,
    )
    devices: tuple[str, ...] = device_option(
        kinds.Names(lambda _, names: tuple(dict.fromkeys(Device.find(name).name for name in names)), metavar="DEVICE"),
        "Devices to measure on: local (this machine), names from `edgekit devices list`, ssh://USER@HOST, or web for "
        "a browser, such as a phone's, that opens the address which edgekit shows. Repeatable, or a list such as "
        "local,pi5,web:pixel.",
        value=(),
        default="local",
        flags=("--device",),
    )
    wheels: Path | None = device_option(
        kinds.Place(kinds.check_wheels, metavar="DIR"),
        "Folder with the packages of the devices' runtimes as wheels, for a machine that reaches no package index.",
        default="pip downloads them here",
        advanced=True,
    )
    web_runtime: Path | None = device_option(
        kinds.Place(),
        "Package file of LiteRT.js, which runs bundles in browsers.",
        default="npm downloads it once",
        advanced=True,
    )
    web_network: PageScheme | None = device_option(
        kinds.OneOf(("http", "https"), metavar="http|https"),
        "Serve the page for browsers to the network, too. Over https it may keep the screen on, use threads and read "
        "a finer clock, as on this machine; the browser warns of the certificate, which is made for the command.",
        default="this machine alone",
        advanced=True,
    )
    threads: int | None = timing_option(
        kinds.Number(1, MOST_THREADS), "Number of threads that the runtime uses.", default="the fastest for each bundle"
    )
    warmup: int = timing_option(kinds.Number(0), "Untimed inferences before the timed ones.", value=20, advanced=True)
    iterations: int | None = timing_option(
        kinds.Number(1),
        "Timed inferences of each bundle.",
        default="200, or from 100 on as few as make the speedups precise",
        advanced=True,
    )
    threshold: float | None = timing_option(
        kinds.Number(0, 1, typed=float, metavar="SCORE"),
        "Confidence from which your app acts on an answer, from 0 to 1. The report counts the answers that cross it "
        "in int8.",
        default="0.5 and 0.8, or those of a model with several labels",
        advanced=True,
    )
    max_drop: float | None = gate_option(
        kinds.Number(0, 100, typed=float, metavar="POINTS"),
        "Largest loss of top-1 accuracy, or of the task's metric, in percentage points, with which an int8 bundle "
        "passes. The whole 95 % confidence interval of the loss must lie within it.",
        default="1, and only a loss that is proven to exceed it fails",
    )
    min_agreement: float | None = gate_option(
        kinds.Number(0, 100, typed=float, metavar="PERCENT"),
        "Smallest agreement with float with which an int8 bundle passes on images without labels: the share of images "
        "with the same answer, or for vectors the cosine in percent. The whole 95 % confidence interval must reach it.",
        default="95",
        advanced=True,
    )
    min_speedup: float | None = gate_option(
        kinds.Number(0, MOST_SPEEDUP, typed=float, metavar="FACTOR"),
        "Required speedup of an int8 bundle over its runtime's fastest float, bf16 and f16 included. The whole 95 % "
        "confidence interval must lie above it. 0 turns the gate off.",
        default="1",
    )
    repair: bool = gate_option(
        kinds.Flag(),
        "Leave int8 bundles as the recipe makes them. Otherwise edgekit keeps layers in float that are slower in int8 "
        "by the runtime's profile, if that makes the bundle faster. If it then misses --max-drop, the noisiest layers "
        "get ranges at run time or stay in float: as few as needed, in at most six attempts. What it ships is never "
        "slower than float because of them.",
        value=True,
        flags=("--no-repair",),
        turns_off=True,
        advanced=True,
    )
    output: Path | None = output_option(
        kinds.Place(metavar="FOLDER"),
        "Run folder for the bundles and reports.",
        default="runs/MODEL",
        flags=("--output", "-o"),
    )
    thumbnails: bool = output_option(
        kinds.Flag(),
        "Leave thumbnails of the images that INT8 classifies differently out of report.html.",
        value=True,
        flags=("--no-thumbnails",),
        turns_off=True,
        advanced=True,
    )
    write_recipe: Path | None = output_option(
        kinds.Place(partial(check_file, "--write-recipe")),
        "TOML file to write the recipe to, with the layers that were kept in float. `--recipe FILE --no-repair` then "
        "makes the same int8 bundles elsewhere.",
        advanced=True,
    )
    metric: Callable[..., float] | None = None
    """Function that judges the outputs instead of the task's metric; a job in Python alone has one."""
    stated: Stated = field(default_factory=dict, compare=False)
    """The values that were stated, from which the same job can be stated again."""
    verb: str = field(default="deploy", compare=False)
    """The command that runs the job."""

    @classmethod
    def of(cls, model: Any, stated: Stated, label: Callable[[str], str] | None = None) -> "Job":
        """The job of a model and of the values that a user states; those that are None are left at their default.

        `label` gives the name of a field in errors: the caller's if None. Raises InputError for a value that is not
        valid, or for a combination of values.
        """
        given = {
            name: value if name in ORDERED else kinds.plain(value)
            for name, value in stated.items()
            if value is not None
        }
        values = values_of({**_demo(given), **given} if model == DEMO else given, label)
        job = cls(model=model, stated=given, **values)
        browsers = [machine for machine in job.machines if machine.is_browser]
        if (job.web_runtime or job.web_network) and not browsers:
            option = "--web-network" if job.web_network else "--web-runtime"
            raise UsageError(f"{option} is for browsers, and no device is one", fix="Add `--device web`")
        if job.scheme:
            check_scheme(job.scheme, job.targets)
        return job

    def with_values(self, stated: Stated) -> "Job":
        """The job after these values have replaced what it stated."""
        return Job.of(self.model, {**self.stated, **stated})

    def check(self) -> None:
        """Raise an InputError if the job names no images, or if its run folder can't be written."""
        self.check_data()
        self.check_output()

    def check_output(self) -> None:
        """Raise OutputError if the job's run folder can't be written."""
        from edgekit.support.run_folder import check_output

        check_output(self.folder)

    def check_data(self) -> None:
        """Raise UsageError if the job names no images."""
        if self.data is None:
            from edgekit.images.dataset import VALID_SETS as VALID

            raise UsageError("no images were given", valid=VALID, fix="Name labelled images with --data PATH")

    @cached_property
    def model_options(self) -> ModelOptions:
        """The network that the job describes, with its preprocessing."""
        if self.model == DEMO:
            own = demo_model(self.weights)
            own = replace(own, labels=None if self.task == "embedding" else own.labels)
        else:
            own = self.model if isinstance(self.model, ModelOptions) else ModelOptions(name=self.model)
        stated = {name: getattr(self, name) for name in MODEL}
        own = replace(own, headless=own.headless or self.task == "embedding")
        return replace(own, **{name: value for name, value in stated.items() if value is not None})

    @cached_property
    def identified(self) -> ModelOptions:
        """`model_options` with what the files of the network state, which are read once."""
        from edgekit.models.loading import identify  # torch

        return identify(self.model_options, self.command)

    @property
    def folder(self) -> Path:
        """Path of the run folder: `output`, or a folder named after the model."""
        return self.output or Path("runs") / self.model_options.run_name.replace("/", "_").replace(":", "_")

    @cached_property
    def machines(self) -> tuple[Device, ...]:
        """The devices to measure on; bundles are built for the class of the first."""
        return tuple(Device.find(name, self.wheels, self.web_network, self.web_runtime) for name in self.devices) or (
            THIS,
        )

    @property
    def timing(self) -> Timing:
        """The timing. It runs for all rounds if the user states their number, or a speedup to confirm."""
        timing = Timing(self.threads, self.warmup, may_end_early=not self.min_speedup)
        return timing if self.iterations is None else replace(timing, iterations=self.iterations, may_end_early=False)

    @property
    def gates(self) -> Gates:
        """The gates. A bound that the user states is a claim, which the interval must confirm."""
        gates = Gates(min_agreement=self.min_agreement)
        if self.min_speedup is not None:
            gates = replace(gates, min_speedup=self.min_speedup, needs_steady_timing=self.min_speedup > 0)
        return gates if self.max_drop is None else replace(gates, max_drop=self.max_drop, must_show_drop=True)

    def gates_on(self, labelled: bool) -> Gates:
        """The gates on images with labels or without. Raises UsageError for a stated bound that these can't show.

        A metric of the user's judges with or without labels.
        """
        return self.gates.for_images(labelled or self.metric is not None)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of a command line that states this job: the model, and the options that were stated."""
        model = () if self.verb == DEMO else (self.model if isinstance(self.model, str) else self.model.name,)
        return (*model, *arguments_of(self.stated))

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs this job, without the name of the program."""
        return (self.verb, *self.arguments)


def values_of(stated: Stated, label: Callable[[str], str] | None = None) -> dict[str, Any]:
    """The values of the fields that were stated. Raises InputError for an unknown field or a value that isn't valid.

    `label` gives the name of a field in errors: the caller's if None.
    """
    options = declarations()
    if unknown := sorted(set(stated) - set(options)):
        near = did_you_mean(unknown[0], list(options))
        raise UsageError(f"a job has no field '{unknown[0]}'", valid=", ".join(options), fix=near)
    cheap_first = sorted(options.items(), key=lambda each: isinstance(each[1].kind, kinds.Images))
    return {
        name: option.kind.read(label(name) if label else option.label(name), stated[name])
        for name, option in cheap_first
        if name in stated
    }


def check_scheme(scheme: Scheme, targets: tuple[str, ...]) -> None:
    """Raise UsageError, with the targets that can, if one of these targets can't compile the INT8 scheme."""
    unable = [Runtime.find(name) for name in targets if scheme not in Runtime.find(name).schemes]
    if not unable:
        return
    able = [runtime.name for runtime in RUNTIMES.values() if scheme in runtime.schemes]
    requested = [name for name in able if name in targets]
    titles = " and ".join(runtime.title for runtime in unable)
    raise UsageError(
        f"{titles} can't compile scheme {scheme}",
        valid=f"{', '.join(unable[0].schemes)} for {titles}",
        fix=f"Choose other runtimes with `{' '.join(f'--target {name}' for name in requested or able)}`",
    )


@cache
def declarations() -> Mapping[str, Option]:
    """The declarations of the fields that a user can state, by name."""
    return {each.name: each.metadata[OPTION].option for each in fields(Job) if OPTION in each.metadata}


def fields_with_defaults(names: Container[str]) -> dict[str, Own]:
    """The declarations of the fields of these names, with their defaults, in the order of the fields."""
    return {each.name: each.metadata[OPTION] for each in fields(Job) if each.name in names}


def flag_of(name: str) -> str:
    """The option that states the field of this name."""
    return declarations()[name].flags_of(name)[0]


def arguments_of(stated: Stated) -> Iterator[str]:
    """The options of a command line that state these values."""
    for name, option in declarations().items():
        value = stated.get(name)
        if value is None:
            continue
        flag = option.flags_of(name)[0]
        if isinstance(option.kind, kinds.Flag):
            if value is not option.turns_off:
                yield flag
        elif isinstance(option.kind, kinds.Images) and not isinstance(value, str | Path):
            yield from (flag, f"<{type(value).__name__} in memory>")
        else:
            yield from (flag, _written(value))


def _written(value: Any) -> str:
    """A value as a user would type it: 2 instead of 2.0 for a number, and a text as it is."""
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each!r}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    return str(value)


def _demo(stated: Stated) -> Stated:
    """What the demo states where the user states nothing."""
    own = (
        {}
        if stated.get("data")
        else {"data": assets() / "evaluation.zip", "calibration_data": assets() / "calibration.zip"}
    )
    return {**own, "output": OUTPUT}
