"""Commands that take a model or a run: deploy, demo and the steps of it, plan, soup, report, compare and targets."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import api
from edgekit.cli.compat import REQUIRED
from edgekit.cli.frame import COMMANDS, FIELDS, MODELS, MORE, NAMES, Answer, all_pass, argument, command, model_argument
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import PRECISIONS, DeviceClass
from edgekit.devices.registry import THIS, Device
from edgekit.errors import EdgekitError, MissingExtraError, OutputError, UsageError
from edgekit.job import DEMO, EVERY_CORE, MAKING, MODEL, Job, flag_of
from edgekit.job.kinds import Each, Number, OneOf, Place, Text, own
from edgekit.job.saved import announce, job_of, steps_after
from edgekit.models.demo import OUTPUT
from edgekit.support.files import check_file, replace_text, writing

if TYPE_CHECKING:
    from edgekit.report.document import Report

ONE_MODEL = model_argument(f"A {MODELS}.")
SAMPLES = 128
"""Number of images on which `edgekit sensitivity` simulates."""


OF_DEMO = {
    "weights": "edgekit's own",
    "data": "edgekit's own images",
    "calibration_data": "edgekit's own images; with --data, its split train or a part of it",
    "output": str(OUTPUT),
}
"""Defaults of `edgekit demo`."""
DEPLOY_EXAMPLES = """
Examples:
  edgekit deploy resnet18 --data photos
  edgekit deploy resnet18 --weights best.pth --data photos
  edgekit deploy my-saved-model --data validation.zip --labels labels.txt
  edgekit deploy resnet18 --data photos --device pi5 --target tflite
  edgekit deploy resnet18 --data photos --max-drop 0.5 --json > report.json
  edgekit deploy resnet18 --data photos --junit junit.xml --summary summary.md
  edgekit deploy job.toml
  edgekit deploy runs/resnet18 --labels corrected.txt
  edgekit deploy resnet18 mobilenetv3_small_100 --data photos --device pi5
"""


@command(
    COMMANDS,
    *(name for name in FIELDS if name == "weights" or name not in MODEL),
    defaults=OF_DEMO,
    shown=("targets", "devices", "output"),
    advanced=("dry_run",),
    judges=True,
)
def demo(stated: dict[str, Any], quiet: bool, dry_run: bool) -> Answer:
    """Run `edgekit deploy` on the model and images that come with edgekit.

    The model is a small ConvNeXt V2, the images are from CIFAR-10.
    """
    job = replace(Job.of(DEMO, stated), verb=DEMO)
    return _run(job, quiet, dry_run)


@command(COMMANDS, *FIELDS, defaults={"data": REQUIRED}, advanced=("dry_run",), judges=True, epilog=DEPLOY_EXAMPLES)
def deploy(
    stated: dict[str, Any],
    quiet: bool,
    dry_run: bool,
    models: list[str] = argument(
        Each(Text(), metavar="MODEL"),
        f"A {MODELS}; a run folder, whose job is used; or a TOML file with a job. Several are deployed one after the "
        "other.",
    ),
) -> Answer:
    """Quantize, compile, evaluate, benchmark and report, for every runtime.

    The run folder then holds a float and an int8 bundle for each runtime, and
    the report in several formats. The exit code is 0 if every bundle passed
    its gates and 1 if not. After an interruption, the same command resumes.
    """
    jobs = _jobs(models, stated)
    for model, job in zip(models, jobs, strict=True):
        announce(model, job, quiet)
    return _run(jobs[0], quiet, dry_run) if len(jobs) == 1 else _run_all(jobs, quiet, dry_run)


def _jobs(models: list[str], stated: dict[str, Any]) -> list[Job]:
    """The job of each model; several have folders in `--output`. Raises UsageError for what only one can have."""
    if len(models) == 1:
        return [job_of(models[0], stated)]
    of_one = [name for name in ("weights", "write_recipe") if stated.get(name) not in (None, "random")]
    if of_one:
        raise UsageError(
            f"{flag_of(of_one[0])} was given for {len(models)} models",
            fix="Give it to a command of one model; or name checkpoints, saved folders or TOML files as the models",
        )
    jobs = [job_of(model, {**stated, "output": None}) for model in models]
    if output := stated.get("output"):
        jobs = [job.with_values({"output": Path(output) / job.folder.name}) for job in jobs]
    folders = [job.folder.resolve() for job in jobs]
    if again := next((job for at, job in enumerate(jobs) if folders[at] in folders[:at]), None):
        raise UsageError(
            f"two of the models have the run folder '{again.folder}'",
            fix="Deploy them by commands with another --output",
        )
    for job in jobs:
        job.check()
    return jobs


def _run_all(jobs: list[Job], quiet: bool, dry_run: bool) -> Answer:
    """Run or plan several jobs one after the other, once all of their models could be loaded.

    An error of one leaves the others, and the exit code is that of the worst.
    """
    from edgekit.report.answer import choose
    from edgekit.report.page import page_of
    from edgekit.support.progress import Reporter

    _load_each(jobs, quiet)
    answers, errors = {}, {}
    for job in jobs:
        try:
            answers[job.folder] = _run(job, quiet, dry_run)
        except EdgekitError as error:
            Reporter(quiet).warn(f"'{job.folder.name}' was not deployed: {error}")
            errors[job.folder.name] = error
    worst = max(errors.values(), key=lambda error: error.exit_code, default=None)
    if worst is not None:
        worst = type(worst)(f"{len(errors)} of {len(jobs)} models were not deployed: {', '.join(errors)}")
    if dry_run or not answers:
        pages = (block for answer in answers.values() for block in ("", *page_of(answer.document)))
        return Answer([answer.document for answer in answers.values()], pages, error=worst)
    return Answer(
        choose({folder: answer.document for folder, answer in answers.items()}),
        last=("", *(line for answer in answers.values() for line in answer.last if line)),
        passed=all(answer.passed for answer in answers.values()),
        error=worst,
    )


def _load_each(jobs: list[Job], quiet: bool) -> None:
    """Raise the error of a model that can't be loaded, such as a wrong name, before the first one is deployed."""
    with api.running(quiet) as reporter:
        from edgekit.models.loading import load_network
        from edgekit.support import libraries

        for job in jobs:
            with reporter.stage(f"load {job.model_options.name}"), libraries.quiet():
                load_network(job.identified, seed=job.seed)


def _run(job: Job, quiet: bool, dry_run: bool) -> Answer:
    """Run or plan the job."""
    if dry_run:
        return Answer(api.plan_job(job, quiet))
    run = api.deploy_job(job, quiet)
    return Answer(
        run.report,
        steps=steps_after(run.report, job.folder),
        last=("", f"Report: {job.folder}/report.html"),
        passed=run.passed,
    )


@command(
    MORE,
    *MAKING,
    defaults={"data": f"{REQUIRED}, unless --calibration-data is given"},
    helps={"output": "Folder for the graphs, calibration.json and stored results."},
)
def quantize(stated: dict[str, Any], quiet: bool, model: str = ONE_MODEL) -> Answer:
    """Calibrate a model and write one quantized graph per runtime.

    `edgekit compile` turns the graphs into int8 bundles.
    """
    quantized = api.quantize_job(Job.of(model, stated), quiet)
    return Answer(quantized, quantized.graphs, passed=not quantized.failures)


@command(
    MORE,
    *MODEL,
    *("task", "data", "targets", "input_dtype", "device_class", "recipe", "seed", "output"),
    defaults={"data": f"{REQUIRED} for a model", "output": "runs/MODEL; graphs need the option"},
    helps={"output": "Folder for the bundles."},
    name="compile",
)
def compile_(
    stated: dict[str, Any],
    quiet: bool,
    source: str = argument(
        Text(metavar="SOURCE"),
        f"A folder that `edgekit quantize` wrote; or a model to compile in float: a {MODELS}.",
    ),
) -> Answer:
    """Compile quantized graphs to int8 bundles, or a model to float bundles.

    A few images check that a float bundle gives the same outputs as torch.
    """
    job = Job.of(source, {"num_calibration_samples": 8, **stated})
    of_graphs = Path(source).is_dir() and not job.model_options.is_checkpoint
    if not of_graphs:
        job.check()
    elif unused := sorted(stated.keys() - {"output"}):
        raise UsageError(
            f"{flag_of(unused[0])} was given for '{source}', whose graphs are made already",
            valid="--output FOLDER",
            fix="Give it to `edgekit quantize`, or leave it out",
        )
    elif job.output is None:
        raise UsageError("no output folder was given", valid="a new folder", fix="Name one with --output FOLDER")
    compiled = api.compile_job(job, Path(source) if of_graphs else None, quiet)
    return Answer(compiled, compiled.bundles, passed=not compiled.failures)


@command(
    MORE,
    *(name for name in MAKING if name not in ("scheme", "input_dtype")),
    *("num_eval_samples", "max_drop", "threads"),
    defaults={
        "data": f"{REQUIRED}, except for demo",
        "output": "runs/MODEL, or the run folder that is given as MODEL",
        "num_eval_samples": str(SAMPLES),
        "max_drop": "1",
        "threads": EVERY_CORE,
    },
    helps={
        "output": "Run folder for sensitivity.json and sensitivity.svg.",
        "num_eval_samples": "Number of images to simulate on.",
        "max_drop": "Loss of accuracy, in percentage points, above which a layer is flagged.",
    },
    shown=(
        *("weights", "labels", "imgsz", "data", "calibration_data", "targets", "recipe", "output", "num_eval_samples"),
        *("max_drop", "threads"),
    ),
)
def sensitivity(
    stated: dict[str, Any],
    quiet: bool,
    model_or_demo: str = model_argument(
        f"A run folder, whose job is used; demo for edgekit's own model; a TOML file with a job; or a {MODELS}."
    ),
) -> Answer:
    """Rank layers by the accuracy they lose and the time they save in INT8.

    The loss is simulated from one calibration. Writes sensitivity.json and
    sensitivity.svg to the run folder.
    """
    job = _of_analysis(job_of(model_or_demo, stated), stated)
    job.check()
    announce(model_or_demo, job, quiet)
    analysis = api.analyse_job(job, quiet)
    return Answer(
        analysis,
        steps=analysis.steps(job.folder),
        widest=sys.maxsize,
        last=("", f"{job.folder}/sensitivity.json", f"{job.folder}/sensitivity.svg"),
        passed=all_pass(analysis.targets),
    )


def _of_analysis(job: Job, stated: dict[str, Any]) -> Job:
    """The job as `sensitivity` runs it: on few images, with a bound, and with both precisions."""
    count = job.num_eval_samples or SAMPLES
    changes: dict[str, Any] = {
        "num_eval_samples": count if "num_eval_samples" in stated else min(count, SAMPLES),
        "max_drop": 1.0 if job.max_drop is None else job.max_drop,
    }
    return replace(job.with_values(changes), precisions=PRECISIONS, verb="sensitivity")


@command(MORE, *(name for name in MODEL if name not in ("weights", "labels")), "targets", "recipe")
def plan(
    stated: dict[str, Any],
    quiet: bool,
    model: str = ONE_MODEL,
    device: str | None = own(
        "Device",
        Text(metavar="DEVICE"),
        "Device that the bundles will run on: local (this machine), a name from `edgekit devices list`, or "
        "ssh://USER@HOST.",
        default="local",
    ),
    device_class: str | None = own(
        "Device",
        Text(metavar="NAME"),
        "Device class that the bundles will run on, or a TOML file that describes one; in place of --device.",
    ),
    memory: float | None = own(
        "Bundles",
        Number(0.1, typed=float, metavar="GIB"),
        "Memory of the machine that makes the bundles, in GiB.",
        default="what is free on this machine",
    ),
) -> Answer:
    """Predict memory and bundle sizes of a job without reading weights.

    Also gives the latency at the nominal peak rate of the device's class, and
    names int8 bundles that will hardly be faster than float there.
    """
    job = Job.of(model, stated)
    if device is not None and device_class is not None:
        raise UsageError("--device and --device-class were both given", fix="Leave one of them out")
    first = Device.find_machine(device) if device else THIS
    if device_class is not None:
        DeviceClass.load(device_class)
    bytes_ = None if memory is None else int(memory * 2**30)
    planned = api.predict_job(job, first, device_class, bytes_, quiet)
    return Answer(planned, planned.page("this machine" if memory is None else "the machine"))


@command(MORE, *(name for name in MODEL if name != "weights"), "data", "seed")
def soup(
    stated: dict[str, Any],
    quiet: bool,
    members: list[Path] = argument(
        Each(Place(), metavar="CHECKPOINT"), "Checkpoints (.safetensors) of fine-tunes of one model."
    ),
    method: Literal["uniform", "greedy"] | None = own(
        "Model",
        OneOf(("uniform", "greedy"), metavar="uniform|greedy"),
        "uniform averages all members; greedy adds a member only if it raises the accuracy on held-out images.",
        default="greedy with --data, else uniform",
    ),
    model_or_demo: str | None = own(
        "Model",
        Text(metavar="MODEL"),
        f"Model of the checkpoints: demo for edgekit's own model, or a {NAMES}.",
        flags=("--model",),
    ),
    num_held_out_samples: int | None = own(
        "Images",
        Number(1),
        "Number of images that choose the members. The remaining images give the final accuracy.",
        default="half of them",
    ),
    output: Path | None = own(
        "Output", Place(), "The .safetensors file to write.", flags=("--output", "-o"), default=REQUIRED
    ),
) -> Answer:
    """Average the weights of several fine-tunes of one model.

    A soup is one checkpoint that costs no more to run than a member. With
    --data and --model, only members that raise the accuracy on held-out
    images are averaged; the remaining images give the final accuracy.
    """
    from edgekit.support.progress import Reporter, loading

    if output is None:
        raise UsageError(
            "no output was given", valid="the path of a .safetensors file", fix="Name one with --output FILE"
        )
    check_soup_output(output)
    job = Job.of(model_or_demo or "", stated)
    network = job.model_options if model_or_demo else None
    reporter = Reporter(quiet)
    with loading(reporter):
        from edgekit.models.soup import SoupOptions, make_soup
    options = SoupOptions(
        tuple(members),
        output,
        method or ("uniform" if job.data is None else "greedy"),
        network,
        job.data,
        num_held_out_samples,
        job.seed,
    )
    record = make_soup(options, reporter)
    return Answer(record, last=[str(output)])


def check_soup_output(path: Path) -> None:
    """Raise OutputError unless a .safetensors file can be written there."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if path.suffix.lower() == ".safetensors" and not path.is_dir() and place.is_dir():
        return
    raise OutputError(
        f"the soup can't be written to '{path}'",
        valid="the path of a .safetensors file, the one format of soups and of their members",
        fix="Correct --output",
    )


@command(MORE, "thumbnails", shown=("thumbnails",))
def report(
    stated: dict[str, Any],
    folders: list[Path] = argument(
        Each(Place(), metavar="RUN"), "A run folder; several for a table over them, such as of several models."
    ),
    max_p50: float | None = own(
        "Gates",
        Number(0, api.MOST_MS, typed=float, metavar="MS"),
        "Largest p50 of the bundle to ship, in milliseconds. Of the runs that keep it, the most accurate is chosen; if "
        "none does, the exit code is 1.",
    ),
    chart: Path | None = own("Output", Place(), "SVG file to write, with the latency and the accuracy of each run."),
    card: Path | None = own(
        "Output", Place(), "Model card to write, in the form that model hubs read: a README.md with YAML metadata."
    ),
    bom: Path | None = own(
        "Output",
        Place(),
        "Bill of materials to write, as CycloneDX 1.6 in JSON: the model with its figures and their intervals, the "
        "hashes of images and bundles, the runtimes and the licences.",
    ),
) -> Answer:
    """Print a run's answer, and rewrite its report.html and report.csv.

    Of several runs, print a table and the one to ship, and write nothing
    unless --chart is given.
    """
    from edgekit.report import load_report, render_files
    from edgekit.report.formats import render_card

    if len(folders) > 1 or max_p50 is not None or chart is not None:
        if card or bom or "thumbnails" in stated:
            raise UsageError("--card, --bom and --no-thumbnails are for the report of one run", fix="Leave them out")
        return _chosen(folders, max_p50, chart)
    folder = folders[0]
    check_file("--card", card)
    check_file("--bom", bom)
    document = load_report(folder)
    run = folder if folder.is_dir() else folder.parent
    try:
        render_files(document, run, stated.get("thumbnails", True))
    except (OutputError, MissingExtraError) as error:
        print(f"warning: {error}", file=sys.stderr)
    if card is not None:
        with writing(card, "--card"):
            replace_text(card.resolve(), render_card(document))
    if bom is not None:
        from edgekit.report.formats import render_bom

        with writing(bom, "--bom"):
            replace_text(bom.resolve(), render_bom(document, _file_hashes(document, run)))
    return Answer(document, steps=steps_after(document, folder) if folder.is_dir() else ())


def _chosen(folders: list[Path], max_p50: float | None, chart: Path | None) -> Answer:
    """The table over several runs, with its chart. It passes unless no run keeps a limit that was stated."""
    from edgekit.report import load_report
    from edgekit.report.answer import choose, draw_choice
    from edgekit.report.plot import render_svg

    check_file("--chart", chart)
    choice = choose({folder: load_report(folder) for folder in folders}, max_p50)
    if chart is not None:
        with writing(chart, "--chart"):
            replace_text(chart.resolve(), render_svg(draw_choice(choice)))
    return Answer(choice, passed=max_p50 is None or None not in choice.ships.values())


def _file_hashes(report: "Report", run: Path) -> dict[str, dict[str, str]]:
    """The hashes of the files of each bundle that is in the run folder, which are checked."""
    from edgekit.runtime.bundle import read_bundle

    names = {row.bundle for row in report.results if row.bundle and (run / row.bundle).is_dir()}
    return {name: read_bundle(run / name).digests() for name in sorted(names)}


@command(MORE, of=api.compare, judges=True)
def compare(
    stated: dict[str, Any],
    before: Path = argument(Place(metavar="RUN_A"), "The run folder to compare with, such as yesterday's."),
    after: Path = argument(Place(metavar="RUN_B"), "The run folder to judge."),
) -> Answer:
    """Compare two runs; exit with 1 if something got worse beyond the noise.

    That is a verdict, a figure beyond its confidence interval, or p50 on the
    same processor with the same threads. Runs of different models or
    evaluation images are inconclusive, and exit with 1. Prints all figures.
    """
    comparison = api.compare(before, after, **stated)
    return Answer(comparison, passed=comparison.verdict == "pass")


@command(MORE)
def targets(
    json_: bool,
    recipe: str | None = own(
        "Bundles",
        Text(metavar="NAME"),
        "Recipe, or a TOML file that holds one, whose rewrites to list instead.",
    ),
) -> Answer:
    """List the runtimes, device classes and recipes.

    These are the values of --target, --device-class and --recipe. With
    --recipe, list the rewrites of one recipe for each runtime and precision,
    in the order of application.
    """
    from edgekit.config.recipes import list_catalogue

    if recipe is not None:
        Recipe.load(recipe)
        return Answer(api.rewrites_of(recipe, json_))
    return Answer(list_catalogue())
