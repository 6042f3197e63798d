"""The whole job: model and images in; bundles, measurements and a report out."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import __version__
from edgekit.data import Dataset, Selection, open_dataset, select
from edgekit.errors import DataError, UsageError
from edgekit.evaluate import Predictions, predict
from edgekit.libraries import import_needed, quiet
from edgekit.measure import Images, Settings, judge, measure_rows
from edgekit.models import Network, load_network
from edgekit.profiles import Recipe, host_class, list_device_classes, load_device_class, load_recipe, recipe_for
from edgekit.progress import Reporter
from edgekit.report import write_report
from edgekit.run_folder import RunFolder, write_json
from edgekit.targets import TARGETS

TORCH_BATCH = 16
PRECISIONS = ("float", "int8")


@dataclass(frozen=True)
class ModelOptions:
    """Which network, as `load_network` takes it."""

    name: str
    weights: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    imgsz: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    labels: Path | None = None


@dataclass(frozen=True)
class Options:
    """A job: what `edgekit deploy` was asked for."""

    model: ModelOptions
    data: Path
    calibration_data: Path | None = None
    targets: tuple[str, ...] = tuple(TARGETS)
    device_class: str | None = None
    recipe: str | None = None
    num_calibration_samples: int | None = None
    num_eval_samples: int | None = None
    seed: int = 0
    output: Path | None = None
    settings: Settings = Settings()
    command: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder: `output`, or one named after the model."""
        return self.output or Path("runs") / self.model.name.replace("/", "_").replace(":", "_")


@dataclass(frozen=True)
class Job:
    """What every stage works on."""

    network: Network
    recipe: Recipe
    device_class: str
    dataset: Dataset
    calibration_dataset: Dataset
    calibration: Selection
    evaluation: Selection


def deploy(options: Options, reporter: Reporter) -> dict[str, Any]:
    """Do the whole job and write the run folder. Returns the report; gates are in its rows' verdicts."""
    run = RunFolder(options.folder)
    job = prepare(options, reporter)
    write_calibration(run.path / "calibration.json", job, options.seed)
    rows, reference = bundles_and_rows(job, options, run, reporter)
    report = assemble(job, options, rows, reference)
    write_report(report, run.path)
    run.forget()
    return report


def prepare(options: Options, reporter: Reporter, evaluate: bool = True) -> Job:
    """Load the network and choose the images; every mistake in the input shows here, before the long work."""
    with reporter.stage(f"load {options.model.name}"), quiet():
        network = load_network(**_model_arguments(options.model), seed=options.seed)
    if network.license_note and "num_classes" not in options.model.model_args:
        reporter.say(network.license_note)
    if network.weights == "random":
        reporter.warn("the weights are random: accuracy means nothing; sizes, speed and agreement do")
    recipe = load_recipe(options.recipe) if options.recipe else recipe_for(options.model.name)
    device_class = options.device_class or host_class()
    if device_class is None:
        raise UsageError(
            f"no device class fits this {platform.machine()} machine: choose one with --device-class, one of "
            f"{', '.join(list_device_classes())}, or give the path of a TOML file."
        )
    name = load_device_class(device_class).name
    dataset = open_dataset(options.data, network.labels)
    other = open_dataset(options.calibration_data, network.labels) if options.calibration_data else dataset
    calibration, evaluation = choose(dataset, other, recipe, options, evaluate, reporter)
    return Job(network, recipe, name, dataset, other, calibration, evaluation)


def choose(
    dataset: Dataset, other: Dataset, recipe: Recipe, options: Options, evaluate: bool, reporter: Reporter
) -> tuple[Selection, Selection]:
    """The calibration images and, without any of them, the evaluation images."""
    asked = options.num_calibration_samples
    count = recipe.num_calibration_samples if asked is None else asked
    if count < 1:
        raise UsageError(f"--num-calibration-samples is {count}: give a whole number from 1.")
    available = len(other.samples) // (2 if other is dataset and evaluate else 1)
    if asked is None and available < count:
        count = max(1, available)
        reporter.warn(f"'{other.path}' has {len(other.samples)} images: calibrating on {count} of them")
    with reporter.stage("read calibration images", count) as step:
        calibration = select(other, count, options.seed, on_image=step)
    if not evaluate:
        return calibration, calibration
    with reporter.stage("read evaluation images", options.num_eval_samples or None) as step:
        evaluation = select(dataset, options.num_eval_samples, options.seed, exclude=calibration, on_image=step)
    for name, reason in (*calibration.unreadable, *evaluation.unreadable):
        reporter.warn(f"passed over {name}: {reason}")
    if not evaluation.samples:
        raise DataError(f"'{dataset.path}' has no image left for evaluation: give more images, or --calibration-data.")
    return calibration, evaluation


def bundles_and_rows(
    job: Job, options: Options, run: RunFolder, reporter: Reporter
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Make or reuse the bundles, evaluate and time them. Rows of the report, and its reference."""
    build = import_needed("edgekit.build", "build")
    with run.workspace("images") as workspace:
        built = build.build_all(job, options.targets, run.path, reporter)
        images = crop_images(job, workspace, run, reporter)
        measured = measure_rows(built, images, options.settings, run, reporter)
    rows = [judge(row, options.settings, job.network.weights == "random") for row in measured]
    reference = images.reference
    summary = {
        "engine": "torch",
        "top1": float(reference.hit1.mean()),
        "top5": float(reference.hit5.mean()),
    }
    return rows, summary


def crop_images(job: Job, workspace: Path, run: RunFolder, reporter: Reporter) -> Images:
    """Crop the evaluation images once, into a file: 50,000 of them take no memory. Torch's answers come with them."""
    chosen, size = job.evaluation.samples, job.network.preprocessing
    shape = (len(chosen), size.height, size.width, 3)
    pixels = np.lib.format.open_memmap(workspace / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    with reporter.stage("crop evaluation images", len(chosen)) as step:
        for index, sample in enumerate(chosen):
            pixels[index] = size.crop(job.dataset.image(sample))
            step()
    labels = np.array([sample.label for sample in chosen])
    files = [job.dataset.read(sample) for sample in chosen[:32]]
    return Images(pixels, labels, torch_answers(job, pixels, labels, run, reporter), files)


def torch_answers(
    job: Job, pixels: NDArray[np.uint8], labels: NDArray[np.int64], run: RunFolder, reporter: Reporter
) -> Predictions:
    """What torch's float network answers for the evaluation images."""
    from edgekit.stages import torch_logits

    key = sha256(f"{job.network.weights_sha256} {job.evaluation.sha256}".encode()).hexdigest()
    kept = run.recall("reference", key)
    if kept is not None:
        return Predictions(*(np.array(kept[name]) for name in ("best", "hit1", "hit5")))
    with reporter.stage("evaluate torch", len(pixels)) as step:

        def answers() -> Iterator[tuple[NDArray[np.float32], int]]:
            for start in range(0, len(pixels), TORCH_BATCH):
                logits = torch_logits(job.network, pixels[start : start + TORCH_BATCH])
                for row, label in zip(logits, labels[start : start + TORCH_BATCH], strict=True):
                    yield row[None], int(label)
                    step()

        found = predict(lambda logits: logits, answers())
    run.remember("reference", key, {name: value.tolist() for name, value in vars(found).items()})
    return found


def assemble(job: Job, options: Options, rows: list[dict[str, Any]], reference: dict[str, Any]) -> dict[str, Any]:
    """The report (schema_version 1)."""
    network, size = job.network, job.network.preprocessing
    macs = next((row.pop("macs") for row in rows if row.get("macs")), 0)
    for row in rows:
        row.pop("macs", None)
    shared = set(job.calibration.hashes) & set(job.evaluation.hashes)
    return {
        "schema_version": 1,
        "edgekit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "command": list(options.command),
        "model": {
            "name": network.name,
            "source": network.source,
            "weights": network.weights,
            "weights_sha256": network.weights_sha256,
            "params": network.params,
            "macs": macs,
            "input_shape": [1, 3, size.height, size.width],
            "classes": network.classes,
            "accuracy_meaningful": network.weights != "random",
            "license": network.license_note,
        },
        "calibration": {
            "count": len(job.calibration.samples),
            "sha256": job.calibration.sha256,
            "seed": options.seed,
            "recipe": job.recipe.name,
            "unreadable": _unreadable(job.calibration),
        },
        "evaluation": {
            "count": len(job.evaluation.samples),
            "sha256": job.evaluation.sha256,
            "overlap_with_calibration": len(shared),
            "unreadable": _unreadable(job.evaluation),
        },
        "reference": reference,
        "results": rows,
        "recommendation": recommend(rows),
    }


def recommend(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest bundle among those that passed every gate, int8 or float, and why."""
    passed = [row for row in rows if row["verdict"] == "pass"]
    if not passed:
        return {"device": "local", "bundle": None, "why": "no bundle passed its gates: see the rows' reasons."}
    best = min(passed, key=lambda row: (row["latency_ms"]["p50"], row["size_bytes"]))
    lost = [row["bundle"] for row in rows if row["precision"] == "int8" and row["verdict"] != "pass"]
    why = f"fastest of the {len(passed)} that passed: p50 {best['latency_ms']['p50']:.2f} ms"
    if best["speedup"]:
        why += f", {best['speedup']['ratio']:.2f}x its float"
    why += f", {best['size_bytes'] / 1e6:.2f} MB"
    if best["precision"] == "float":
        why += "; ship float: no int8 bundle that passed is faster"
    if lost:
        why += f"; not passed: {', '.join(lost)}"
    return {"device": best["device"]["name"], "bundle": best["bundle"], "why": why + "."}


def write_calibration(path: Path, job: Job, seed: int) -> None:
    """calibration.json: every image used, with its sha256, the seed and the recipe."""
    chosen = job.calibration
    write_json(
        path,
        {
            "schema_version": 1,
            "seed": seed,
            "sha256": chosen.sha256,
            "data": job.calibration_dataset.path.name,
            "recipe": asdict(job.recipe),
            "images": [
                {"name": sample.name, "sha256": digest, "label": sample.label}
                for sample, digest in zip(chosen.samples, chosen.hashes, strict=True)
            ],
            "unreadable": _unreadable(chosen),
        },
    )


def plan(options: Options, job: Job) -> dict[str, Any]:
    """What the job would do, for --dry-run."""
    return {
        "schema_version": 1,
        "model": job.network.name,
        "params": job.network.params,
        "output": str(options.folder),
        "targets": list(options.targets),
        "recipe": job.recipe.name,
        "device_class": job.device_class,
        "calibration_images": len(job.calibration.samples),
        "evaluation_images": len(job.evaluation.samples),
        "bundles": [f"{target}-{precision}" for target in options.targets for precision in PRECISIONS],
    }


def _model_arguments(options: ModelOptions) -> dict[str, Any]:
    return {each: getattr(options, each) for each in ModelOptions.__dataclass_fields__}


def _unreadable(selection: Selection) -> list[dict[str, str]]:
    return [{"name": name, "reason": reason} for name, reason in selection.unreadable]
