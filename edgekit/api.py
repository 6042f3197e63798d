"""The functions of Python, which the commands of their names call: `edgekit.deploy(network, data="photos")`.

Options are fields of `edgekit.job.Job`, or a function's own, as the default of a parameter; `help(edgekit.deploy)`
lists both. A model is what the commands take as MODEL or an `nn.Module` in memory; images are a path, a torch
`Dataset`, or an iterable of (image, label).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from edgekit.devices.registry import LOCAL, THIS, Device
from edgekit.errors import UsageError, did_you_mean
from edgekit.job import MAKING, MEASURING, MOST_THREADS, Job, declarations, fields_with_defaults, kinds
from edgekit.job.kinds import Duration, Number, Own, Portion, Text, own, spelled
from edgekit.job.saved import in_memory, job_of
from edgekit.support.child_process import interruptible, noting
from edgekit.support.libraries import OfProcess, let_threads_sleep
from edgekit.support.libraries import quiet as silent

if TYPE_CHECKING:
    from edgekit.devices.push import Pushed
    from edgekit.measure.evaluation import BundleEvaluation
    from edgekit.measure.inspect_bundle import Classification
    from edgekit.measure.task import Metric
    from edgekit.pipeline import builder, plan
    from edgekit.pipeline import deploy as pipeline
    from edgekit.report.answer import Benchmark
    from edgekit.report.compare import Comparison
    from edgekit.report.document import Report
    from edgekit.report.sensitivity_document import Sensitivity
    from edgekit.runtime import Session
    from edgekit.runtime.bundle import Bundle
    from edgekit.support.progress import Reporter

Call = TypeVar("Call", bound=Callable[..., Any])
Place = str | os.PathLike[str]
Bundles = Place | Sequence[Place]
MOST_STREAMS = 256
MOST_AT_ONCE = 64
MOST_MS = 3_600_000
# A host name or address, and a port; Dask takes tcp:// for granted.
_SCHEDULER = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its report, and its bundles by name, such as `run["tflite-int8"]`.

    It stands for its folder where a function takes a path, and iterates over the names of its bundles.
    """

    path: Path
    """Run folder, as an absolute path."""
    report: Report
    """Document that report.json holds."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self.bundles)

    @property
    def bundles(self) -> dict[str, Path]:
        """Folder of each bundle, by its name."""
        return {name: self.path / name for name in self.report.bundles}

    @property
    def best(self) -> Path | None:
        """Folder of the bundle to ship to the first device; None if no bundle passed."""
        name = self.report.recommendation.bundle
        return None if name is None else self.path / name

    @property
    def passed(self) -> bool:
        """Whether every bundle passed its gates, so that the command would exit with 0."""
        return all(row.verdict == "pass" for row in self.report.results)

    def __getitem__(self, bundle: str) -> Session:
        """A session of the bundle of this name. Raises BundleError if there is none."""
        from edgekit.runtime import load

        return load(self.path / bundle)

    def __str__(self) -> str:
        """The answer, as the command prints it."""
        from edgekit.report import answer_lines

        return "".join(f"{line}\n" for line in answer_lines(self.report))

    def _repr_html_(self) -> str:
        """The page of the report, for a notebook."""
        from html import escape

        from edgekit.report.html import render_html

        page = escape(render_html(self.report), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


def own_of(function: Callable[..., Any]) -> dict[str, Own]:
    """The options of a function's own, by the names of its parameters."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return {each.name: each.default for each in parameters if isinstance(each.default, Own)}


def options_of(function: Callable[..., Any]) -> dict[str, Own]:
    """The options of one of these functions: its own, and the fields of a job that it takes."""
    return cast(dict[str, Own], vars(function)["options"])


def _takes(*names: str) -> Callable[[Call], Call]:
    """Let a function take these fields of a job beside its own options, and no others.

    Both are in its signature and docstring. Options that are None keep their default.
    """

    def taking(function: Call) -> Call:
        plain, own = inspect.signature(function), own_of(function)
        taken = own | fields_with_defaults(names)
        parameters = [
            each.replace(default=own[each.name].value) if each.name in own else each
            for each in plain.parameters.values()
            if each.kind is not each.VAR_KEYWORD
        ]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=each.value)
            for name, each in taken.items()
            if name not in plain.parameters
        ]
        signature, known = plain.replace(parameters=parameters), [each.name for each in parameters]

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with spelled("parameter"):
                if unknown := sorted(set(options).difference(known)):
                    raise UsageError(
                        f"edgekit.{function.__name__} has no option '{unknown[0]}'",
                        valid=", ".join(known),
                        fix=did_you_mean(unknown[0], known),
                    )
                values = signature.bind(*arguments, **options).arguments
                return function(**values | {name: each.read(name, values.get(name)) for name, each in own.items()})

        listed = "\n".join(f"    {name}: {each.option.meaning}" for name, each in taken.items())
        call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{listed}\n"
        vars(call).update(__signature__=signature, options=taken)
        return cast(Call, call)

    return taking


_on_stderr = OfProcess(lambda: redirect_stdout(cast(TextIO, sys.__stderr__)))


@contextmanager
def running(quiet: bool, builds: bool = True) -> Iterator[Reporter]:
    """The reporter of a call that runs inside; what libraries print goes to stderr, where `Reporter` silences it.

    A call that builds bundles first imports torch and the compilers, which takes seconds.
    """
    from edgekit.support.progress import Reporter, loading

    reporter = Reporter(quiet)
    with noting(signal.SIGINT), interruptible(), _on_stderr:
        if builds:
            let_threads_sleep()
            with loading(reporter), silent():
                import edgekit.tuning.improvements  # noqa: F401  # which imports the rest
        yield reporter


@_takes(*declarations())
def deploy(
    model: Any,
    data: Any = None,
    *,
    transform: Any = None,
    name: str | None = None,
    metric: Metric | None = None,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Quantize, compile, evaluate, benchmark and report, as `edgekit deploy` does. Returns the `Run`.

    Args:
        model: What `edgekit deploy` takes as MODEL, or an `nn.Module` in memory.
        data: Labelled images: a path, a torch `Dataset`, or an iterable of (image, label).
        transform: How a network in memory wants its images: a transform of torchvision or timm, or a preset of
            torchvision's weights. By default it is that of `data`; `imgsz`, `mean`, `std`, `interpolation` and
            `crop_pct` replace its values.
        name: Name of a network in memory; None for its architecture in timm, or the name of its class.
        metric: Function that judges a network instead of the task's metric. It gets outputs, float32 [N,K], and what is
            right for these images: class indices, int64 [N] (-1 without a label), or for several labels bool
            [N,classes]. It returns a number up to 1, of which more is better. `max_drop` is in hundredths of it.
        quiet: Show no progress.
        options: Fields of the job.

    Raises:
        InputError: a value, the images or the model are not usable; nothing was written.
    """
    job = job_of(in_memory(model, transform, name, data), {"data": data, **options})
    return deploy_job(replace(job, metric=metric), quiet)


def deploy_job(job: Job, quiet: bool) -> Run:
    """Check a job and run it, as `deploy` and the commands deploy and demo do."""
    job.check()
    with running(quiet) as reporter:
        from edgekit.pipeline import deploy as pipeline
        from edgekit.tuning import improvements

        report = pipeline.deploy(job, reporter, improvements.improvements_of if job.repair else None)
    return Run(job.folder.absolute(), report)


def plan_job(job: Job, quiet: bool) -> pipeline.PlannedRun:
    """Check a job and plan its run, as `--dry-run` does."""
    job.check()
    with running(quiet) as reporter:
        from edgekit.pipeline import deploy as pipeline

        return pipeline.plan(job, reporter)


def quantize_job(job: Job, quiet: bool) -> builder.QuantizedGraphs:
    """Check a job and write its quantized graphs, as `edgekit quantize` does."""
    if job.calibration_data is None:
        job.check_data()
    job.check_output()
    with running(quiet) as reporter:
        from edgekit.pipeline import builder

        return builder.quantize_model(job, reporter)


def compile_job(job: Job, graphs: Path | None, quiet: bool) -> builder.CompiledBundles:
    """Compile a checked job's model in float, or the graphs that `quantize_job` wrote to a folder."""
    with running(quiet) as reporter:
        from edgekit.pipeline import builder

        if graphs is None:
            return builder.compile_model(job, reporter)
        return builder.compile_graphs(graphs, job.folder, reporter)


def analyse_job(job: Job, quiet: bool) -> Sensitivity:
    """Measure the sensitivity of a checked job's layers, as `edgekit sensitivity` does."""
    with running(quiet) as reporter:
        from edgekit.tuning.sensitivity import analyse

        return analyse(job, reporter)


def predict_job(job: Job, first: Device, device_class: str | None, memory: int | None, quiet: bool) -> plan.Plan:
    """Predict what a job needs and makes, as `edgekit plan` does, on a machine with `memory` bytes."""
    with running(quiet):
        from edgekit.pipeline import plan

        return plan.predict(job, first, device_class, memory)


def classify_job(job: Job, bundle: Path, images: Sequence[Path], top: int | None, quiet: bool) -> Classification:
    """The best labels of images, or the most similar images of the job's data, as `edgekit classify` prints them."""
    from edgekit.measure.inspect_bundle import classify_images
    from edgekit.support.progress import Reporter

    return classify_images(bundle, images, top, job.threads, job.data, Reporter(quiet), job.threshold)


def rewrites_of(recipe: str, quiet: bool) -> plan.RecipeRewrites:
    """The rewrites of a recipe, as `edgekit targets --recipe` lists them."""
    with running(quiet):
        from edgekit.pipeline import plan

        return plan.list_rewrites(recipe)


@_takes(*(name for name in MAKING if name not in ("data", "calibration_data", "targets")))
def quantize(
    model: Any,
    images: Any,
    *,
    target: str,
    transform: Any = None,
    name: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Bundle:
    """Calibrate a model on images and compile it for one runtime. Returns the INT8 bundle, which isn't measured.

    Args:
        model: As for `deploy`.
        images: Images to calibrate on, as for `deploy`; they need no labels.
        target: Runtime to compile for.
        transform: As for `deploy`.
        name: As for `deploy`.
        quiet: Show no progress.
        options: Fields of the job.

    Raises:
        InputError: As for `deploy`.
        StageError: The model could not be calibrated or compiled.
    """
    stated = {**options, "calibration_data": images, "targets": [target], "precisions": ["int8"]}
    job = job_of(in_memory(model, transform, name, images), stated)
    if options.get("output") is None:  # a measured run keeps its bundles
        job = replace(job, output=job.folder.with_name(f"{job.folder.name}-quantized"))
    with running(quiet) as reporter:
        from edgekit.pipeline import builder

        (made,) = builder.build_bundles(job, reporter).values()
    if isinstance(made, Exception):
        raise made
    return made


def _check_scheduler(address: str) -> None:
    """Raise UsageError unless this looks like the address of a Dask scheduler."""
    if not _SCHEDULER.fullmatch(address):
        raise UsageError(
            f"--scheduler is '{address}'",
            valid="the address of a Dask scheduler, such as tcp://HOST:8786",
            fix="Start one with `dask scheduler`, which prints its address",
        )


@_takes(
    *(
        "data",
        "num_eval_samples",
        "seed",
        "devices",
        "web_runtime",
        "web_network",
        "threads",
        "threshold",
        "max_drop",
        "min_agreement",
    )
)
def evaluate(
    bundles: Bundles,
    data: Any = None,
    *,
    reference: Path | None = own(
        "Bundles",
        kinds.Place(metavar="BUNDLE"),
        "Bundle that the others are compared with.",
        default="the first float bundle, or else the first bundle",
    ),
    workers: int | None = own(
        "Measurement",
        Number(1, MOST_THREADS),
        "Number of processes to spread the images over.",
        default="1, in this process",
    ),
    scheduler: str | None = own(
        "Measurement",
        Text(_check_scheduler, metavar="ADDRESS"),
        "Address of a Dask scheduler, such as tcp://HOST:8786, whose workers evaluate too. They need the bundles and "
        "images at the same paths. Dask sends pickles, which can run code, so use it only between machines that you "
        "trust, on a private network.",
    ),
    shard: tuple[int, int] | None = own(
        "Measurement",
        Portion(),
        "Run the bundles only on part I of N parts of the images, and write the answers to a file in --output, from "
        "which --join compares the bundles.",
        default="all images",
    ),
    join: Path | None = own(
        "Measurement",
        kinds.Place(metavar="FOLDER"),
        "Folder with the files of all parts, which are joined instead of running the bundles again.",
    ),
    output: Path | None = own(
        "Output",
        kinds.Place(metavar="FOLDER"),
        "Folder for the file of --shard, or for finished work, from which the same command resumes after an "
        "interruption.",
        flags=("--output", "-o"),
    ),
    quiet: bool = False,
    **options: Any,
) -> BundleEvaluation:
    """Measure the accuracy of bundles, or their agreement on images without labels, as `edgekit evaluate` does.

    Args:
        bundles: A bundle folder, a run or its folder for all of its bundles, or several of them.
        data: Images, as for `deploy`.
        quiet: Show no progress.
        options: Fields of the job.
    """
    from edgekit.measure.bundles import bundles_of
    from edgekit.measure.evaluation import Scale, evaluate_bundles
    from edgekit.support.run_folder import check_output

    paths, job = bundles_of(_paths(bundles)), Job.of("", {"data": data, **options})
    job.check_data()
    if output is not None:
        check_output(output)
    judges = job.max_drop is not None or job.min_agreement is not None
    if shard is not None and (output is None or join is not None or judges):
        raise UsageError(
            f"--shard {shard[0]}/{shard[1]} writes a part of the answers to --output, and compares no bundles",
            valid="--shard with --output, and without --join, --max-drop and --min-agreement",
            fix="Evaluate each part with `--shard I/N --output FOLDER`, then compare with `--join FOLDER`",
        )
    browser = _browser(job)
    if browser is not None and (workers or scheduler or output or join):
        raise UsageError(
            f"'{browser.name}' is a browser, for which --workers, --scheduler, --shard, --join and --output don't work",
            fix="Leave them out",
        )
    with running(quiet, builds=False) as reporter:
        evaluated = functools.partial(
            evaluate_bundles,
            data=job.data,
            count=job.num_eval_samples,
            seed=job.seed,
            threads=job.threads,
            reporter=reporter,
            scale=Scale(workers, scheduler, output, shard, join),
            reference=reference,
            gates=job.gates if judges else None,
            threshold=job.threshold,
        )
        if browser is None:
            return evaluated(paths)
        from edgekit.devices.web import evaluate_in_browser

        return evaluate_in_browser(browser, paths, reference, job.threads, evaluated, reporter)


def _browser(job: Job) -> Device | None:
    """The browser to evaluate in; None for this machine. Raises UsageError for a board."""
    if job.machines == (THIS,):
        return None
    if len(job.machines) > 1 or not job.machines[0].is_browser:
        raise UsageError(
            f"--device is '{','.join(job.devices)}'",
            valid=f"{LOCAL}, or web for a browser",
            fix="`edgekit deploy --device` also evaluates on boards, and on several devices",
        )
    return job.machines[0]


@_takes(*MEASURING)
def benchmark(
    bundles: Bundles,
    *,
    sustain_s: float | None = own(
        "Measurement",
        Duration(),
        "Run for this long, such as 90s, 10m or 1h30m, in place of --iterations, and report a time series with its "
        "first and last minute.",
        flags=("--sustain",),
    ),
    streams: int | None = own(
        "Measurement",
        Number(1, MOST_STREAMS),
        "Also measure the images per second of this many sessions side by side. They share the cores unless --threads "
        "states each one's threads.",
        default="not measured",
    ),
    camera: tuple[int, int] | None = own(
        "Measurement",
        kinds.Frame(),
        "Also measure the frames per second of a camera with frames of this size, WIDTHxHEIGHT, such as 1920x1080: one "
        "after the other, and with the next one prepared while the model runs.",
        default="not measured",
    ),
    quiet: bool = False,
    **options: Any,
) -> Benchmark:
    """Measure the latency, memory and energy of bundles, here or on devices, as `edgekit benchmark` does.

    Args:
        bundles: As for `evaluate`.
        quiet: Show no progress.
        options: Fields of the job.
    """
    from edgekit.devices.remote import benchmark_devices
    from edgekit.measure.bundles import bundles_of

    paths, job = bundles_of(_paths(bundles)), Job.of("", options)
    if sustain_s is not None and job.iterations is not None:
        raise UsageError("--sustain and --iterations were both given", fix="Leave one of them out")
    timing = replace(job.timing, sustain_s=sustain_s, streams=streams, camera=camera)
    with running(quiet, builds=False) as reporter:
        return benchmark_devices(paths, job.machines, timing, reporter, job.gates if job.min_speedup else None)


@_takes()
def compare(
    before: Place,
    after: Place,
    max_slowdown: float | None = own(
        "Gates",
        Number(0, 1000, typed=float, metavar="PERCENT"),
        "Largest slowdown of p50 that is no regression. Smaller ones may come from where in memory a bundle lies.",
        default="10",
    ),
    different: bool = own(
        "Gates", kinds.Flag(), "Judge runs of different models or evaluation images as if they were alike.", value=False
    ),
) -> Comparison:
    """Compare two runs, as `edgekit compare` does.

    Args:
        before: Run, or its folder, to compare with.
        after: Run, or its folder, to judge.
    """
    from edgekit.report import load_report
    from edgekit.report.compare import MAX_SLOWDOWN, compare_runs

    first, second = (run.report if isinstance(run, Run) else load_report(Path(run)) for run in (before, after))
    return compare_runs(first, second, MAX_SLOWDOWN if max_slowdown is None else max_slowdown, different)


@_takes("threads", "wheels")
def push(
    bundle: Place,
    devices: str | Sequence[str],
    *,
    name: str = own("Device", Text(metavar="APP"), "Name of the app, which has its own two slots.", value="app"),
    max_p99: float | None = own(
        "Gates",
        Number(0, MOST_MS, typed=float, metavar="MS"),
        "Largest p99 of the latency, in milliseconds, with which a device accepts the bundle. 0 turns the gate off.",
        default="1.5 times the p99 in the report of the bundle's run",
    ),
    canary: int = own(
        "Device",
        Number(0),
        "Number of devices to push to first. The others follow if all of them pass.",
        value=1,
    ),
    parallel: int = own(
        "Device",
        Number(1, MOST_AT_ONCE),
        "Largest number of devices to push to at the same time.",
        value=4,
    ),
    quiet: bool = False,
    **options: Any,
) -> Pushed:
    """Put a bundle on devices, try it there, and make it an app's active one, as `edgekit push` does.

    Args:
        bundle: Bundle folder.
        devices: Name of a device, or several.
        quiet: Show no progress.
        options: Fields of the job.
    """
    from edgekit.devices.push import push_bundle

    job = Job.of("", options)
    names = [devices] if isinstance(devices, str) else devices
    with running(quiet, builds=False) as reporter:
        return push_bundle(
            Path(bundle),
            names,
            name,
            reporter,
            max_p99=max_p99,
            threads=job.threads,
            wheels=job.wheels,
            canary=canary,
            parallel=parallel,
        )


def _paths(places: Bundles) -> list[Path]:
    return [Path(places)] if isinstance(places, str | os.PathLike) else [Path(place) for place in places]
