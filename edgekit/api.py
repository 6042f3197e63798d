"""The commands as functions of Python: `edgekit.deploy(network, data="photos")`.

Each function states a job as the command of its name does, and calls what that command calls. Options have the names of
the fields of `edgekit.job.Job`, which `help(edgekit.deploy)` lists. A model is what the commands take as MODEL or an
`nn.Module` in memory; images are a path, a torch `Dataset`, or an iterable of (image, label).
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.errors import UsageError
from edgekit.job import Job, job_of
from edgekit.job.job import MAKING, MEASURING, declarations, default_of
from edgekit.job.kinds import Option
from edgekit.job.saved import bundles_of

if TYPE_CHECKING:
    from edgekit.devices.rollout import Pushed
    from edgekit.measure.evaluation import BundleEvaluation
    from edgekit.measure.tasks.own_metric import Metric
    from edgekit.report.compare import Comparison
    from edgekit.report.document import Report
    from edgekit.runtime import Session
    from edgekit.runtime.bundle import Bundle
    from edgekit.support.progress import Reporter

Call = TypeVar("Call", bound=Callable[..., Any])
Place = str | os.PathLike[str]
WIDTH = 80
"""Columns of the text that a run prints."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its report, and its bundles by name, such as `run["tflite-int8"]`."""

    path: Path
    """Run folder."""
    report: Report
    """Document that report.json holds."""

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
        from rich.console import Console

        from edgekit.report import render_answer

        text = io.StringIO()
        render_answer(self.report, Console(file=text, width=WIDTH))
        return text.getvalue()

    def _repr_html_(self) -> str:
        """The page of the report, for a notebook."""
        from html import escape

        from edgekit.report.html import render_html

        page = escape(render_html(self.report), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


def _takes(*names: str) -> Callable[[Call], Call]:
    """Show the fields of a job that a function takes in its signature and docstring."""

    def described(function: Call) -> Call:
        options = {name: option for name, option in declarations().items() if name in names}
        own = inspect.signature(function)
        parameters = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default_of(name))
            for name in options
            if name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        listed = "\n".join(f"    {name}: {_meaning(option)}" for name, option in options.items())
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{listed}\n"
        return function

    return described


def _meaning(option: Option) -> str:
    """What a field means: the help of its option, which for some stands for False."""
    return f"If False, {option.help[0].lower()}{option.help[1:]}" if option.turns_off else option.help


def _named(name: str) -> str:
    """The name of a field in an error: that of the parameter."""
    return name


def _job(model: Any, data: Any, transform: Any, name: str | None, options: dict[str, Any]) -> Job:
    """The job of a model, which may be a network in memory, and of the options that were stated."""
    if not isinstance(model, str | os.PathLike):
        from edgekit.images.layouts.in_memory import transform_of
        from edgekit.models.module_source import name_of
        from edgekit.models.options import ModelOptions

        own = transform if transform is not None else transform_of(data)
        model = ModelOptions(name=name or name_of(model), module=model, transform=own)
    elif transform is not None or name is not None:
        parameter = "name" if transform is None else "transform"
        raise UsageError(
            f"{parameter} was given for the model '{model}'",
            valid=f"a {parameter} for a network in memory",
            fix="Leave it out, or state imgsz, mean, std, interpolation and crop_pct",
        )
    return job_of(model, {"data": data, **options}, _named)


@contextmanager
def _running(quiet: bool, builds: bool = True) -> Iterator[Reporter]:
    """The reporter of a call that runs inside; what libraries print goes to stderr, where `Reporter` silences it.

    A call that builds bundles first imports torch and the compilers, which takes seconds.
    """
    from edgekit.support.libraries import quiet as silent
    from edgekit.support.progress import Reporter, loading

    reporter = Reporter(quiet)
    with redirect_stdout(sys.__stderr__):
        if builds:
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
    job = replace(_job(model, data, transform, name, options), metric=metric)
    job.check()
    with _running(quiet) as reporter:
        from edgekit.pipeline.deploy import deploy as run_job
        from edgekit.tuning.improvements import improvements_of

        return Run(job.folder, run_job(job, reporter, improvements_of if job.repair else None))


@_takes(*MAKING)
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
    stated = {"calibration_data": images, "targets": [target], "precisions": ["int8"], **options}
    job = _job(model, options.get("data"), transform, name, stated)
    with _running(quiet) as reporter:
        from edgekit.pipeline.steps import build_bundles

        (made,) = build_bundles(job, reporter).values()
    if isinstance(made, Exception):
        raise made
    return made


@_takes("data", "num_eval_samples", "seed", "threads", "threshold", "max_drop")
def evaluate(
    bundles: Place | Sequence[Place], data: Any, *, reference: Place | None = None, quiet: bool = False, **options: Any
) -> BundleEvaluation:
    """Measure the accuracy of bundles on labelled images on this machine, as `edgekit evaluate` does.

    Args:
        bundles: A bundle folder, a run folder for all of its bundles, or several of them.
        data: Labelled images, as for `deploy`.
        reference: Bundle that the others are compared with; None for the first float bundle, or else the first.
        quiet: Show no progress.
        options: Fields of the job.
    """
    from edgekit.measure.evaluate_bundles import evaluate_bundles

    job = Job.of("", {"data": data, **options}, _named)
    other = Path(reference) if reference is not None else None
    gates = None if job.max_drop is None else job.gates
    with _running(quiet, builds=False) as reporter:
        what = (bundles_of(_paths(bundles)), job.data, job.num_eval_samples, job.seed, job.threads, reporter)
        return evaluate_bundles(*what, reference=other, gates=gates, threshold=job.threshold)


@_takes(*MEASURING)
def benchmark(
    bundles: Place | Sequence[Place],
    *,
    sustain_s: float | None = None,
    streams: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> Any:
    """Measure the latency, memory and energy of bundles, here or on devices, as `edgekit benchmark` does.

    Args:
        bundles: A bundle folder, a run folder for all of its bundles, or several of them.
        sustain_s: Seconds to run for, in place of `iterations`.
        streams: Number of sessions side by side whose images per second are measured too.
        quiet: Show no progress.
        options: Fields of the job.
    """
    from edgekit.devices.benchmark import benchmark_devices

    job = Job.of("", options, _named)
    timing = replace(job.timing, sustain_s=sustain_s, streams=streams)
    gates = job.gates if job.min_speedup else None
    with _running(quiet, builds=False) as reporter:
        return benchmark_devices(bundles_of(_paths(bundles)), job.machines, timing, reporter, gates)


def compare(before: Place | Run, after: Place | Run, max_slowdown: float | None = None) -> Comparison:
    """Compare two runs, as `edgekit compare` does.

    Args:
        before: Run, or its folder, to compare with.
        after: Run, or its folder, to judge.
        max_slowdown: Largest slowdown of p50, in percent, that is no regression; None for the command's default.
    """
    from edgekit.report import load_report
    from edgekit.report.compare import MAX_SLOWDOWN, compare_runs

    first, second = (run.report if isinstance(run, Run) else load_report(Path(run)) for run in (before, after))
    return compare_runs(first, second, MAX_SLOWDOWN if max_slowdown is None else max_slowdown)


def push(
    bundle: Place,
    devices: str | Sequence[str],
    *,
    name: str = "app",
    max_p99: float | None = None,
    threads: int | None = None,
    canary: int = 1,
    parallel: int = 4,
    wheels: Place | None = None,
    quiet: bool = False,
) -> Pushed:
    """Put a bundle on devices, try it there, and make it an app's active one, as `edgekit push` does.

    Args:
        bundle: Bundle folder.
        devices: Name of a device, or several.
        name: Name of the app, which has its own two slots.
        max_p99: Largest p99 of the latency, in milliseconds, with which a device accepts the bundle; 0 for no gate.
        threads: Number of threads that the runtime uses.
        canary: Number of devices to push to first.
        parallel: Largest number of devices to push to at the same time.
        wheels: Folder with the packages of the devices' runtimes; None to let this machine's pip download them.
        quiet: Show no progress.
    """
    from edgekit.devices.push import bound_for, check_app, check_trust
    from edgekit.devices.registry import find_remote
    from edgekit.devices.rollout import push_bundle
    from edgekit.runtime.bundle import read_bundle

    check_app(name)
    names = [devices] if isinstance(devices, str) else devices
    machines = [find_remote(each, Path(wheels) if wheels else None) for each in dict.fromkeys(names)]
    read = read_bundle(bundle)
    check_trust(read, machines)
    bounds = {machine: bound_for(read, machine, max_p99, threads) for machine in machines}
    with _running(quiet, builds=False) as reporter:
        return push_bundle(read, bounds, name, reporter, canary, parallel)


def _paths(places: Place | Iterable[Place]) -> list[Path]:
    return [Path(places)] if isinstance(places, str | os.PathLike) else [Path(place) for place in places]
