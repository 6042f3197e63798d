"""The job of a run folder: the options that `edgekit deploy` got, so that later commands need only the folder.

It is in `.edgekit/job.json` there. Reports and bundles are shared, and this file contains local paths, so nothing else
has its content, and no command copies it.
"""

import os
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import typer

from edgekit.cli.checks import check_images
from edgekit.cli.groups import Calibrating, Making, Measuring, Source, Wanted
from edgekit.cli.options import demo_options, job_options, model_options
from edgekit.errors import DataError, InputError, UsageError
from edgekit.pipeline.options import Options

DEMO = "demo"
"""MODEL of edgekit's own network and images."""
GROUPS = ("making", "calibrating", "measuring", "source", "wanted")
Group = TypeVar("Group", Making, Calibrating, Measuring, Source, Wanted)


@dataclass(frozen=True, kw_only=True)
class GivenJob:
    """A job as the options of a command state it. Paths that a run folder keeps are absolute."""

    schema_version: Literal[1] = 1
    model: str
    making: Making
    calibrating: Calibrating = field(default_factory=Calibrating)
    measuring: Measuring = field(default_factory=Measuring)
    source: Source = field(default_factory=Source)
    wanted: Wanted = field(default_factory=Wanted)

    def options(self, command: tuple[str, ...]) -> Options:
        """The options of the pipeline for this job, with itself for the run folder to keep."""
        if self.model == DEMO:
            options = demo_options(self.making, self.calibrating, self.measuring, command)
        else:
            network = model_options(self.model, self.making.weights, self.source)
            options = job_options(network, self.making, self.calibrating, self.measuring, command)
        return replace(options, as_given=_plain(self))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command-line arguments that state this job: MODEL, and the options that aren't at their default."""
        return (self.model, *(text for name in GROUPS for text in arguments_of(getattr(self, name))))


def is_run(path: Path) -> bool:
    """Whether a path is that of a run folder."""
    from edgekit.report.serialization import REPORT_FILE
    from edgekit.support.run_folder import STATE

    return os.path.isdir(path) and (os.path.isdir(path / STATE) or os.path.isfile(path / REPORT_FILE))


def run_of(model: str, output: Path | None) -> Path | None:
    """The run folder that is given as MODEL; None for a model. A folder that is also the output keeps its meaning.

    Raises InputError for a path that doesn't exist.
    """
    path = Path(model)
    if os.sep in model and ":" not in model and not path.suffix and not path.exists():
        raise InputError(
            f"'{model}' doesn't exist",
            valid="a run folder, a saved model, a model's name, or hf_hub:USER/MODEL",
            fix="Correct the path",
        )
    if model == DEMO or not is_run(path) or (output is not None and output.resolve() == path.resolve()):
        return None
    return path


def continued(given: GivenJob, run: Path, context: typer.Context) -> GivenJob:
    """The job of a run folder, with the options that the command line states in place of the folder's own.

    Raises InputError if the folder has no job, or if a file of the job is not there any more.
    """
    explicit, saved = explicit_options(context), read_job(run)
    if "device" in explicit:  # whose class decides, unless the command line states another
        saved = replace(saved, making=replace(saved.making, device_class=None))
    _check_paths(saved, run, explicit)
    groups = {name: _merged(getattr(given, name), getattr(saved, name), explicit) for name in GROUPS}
    return replace(saved, **groups)


def with_output(job: GivenJob, output: Path) -> GivenJob:
    """The job with this run folder."""
    return replace(job, making=replace(job.making, output=output))


def read_job(run: Path) -> GivenJob:
    """The job that a run folder keeps. Raises InputError if there is none, or it is not valid."""
    import msgspec

    from edgekit.support.run_folder import JOB

    try:
        content = (run / JOB).read_bytes()
        return msgspec.json.decode(content, type=GivenJob, dec_hook=lambda kind, value: kind(value))
    except FileNotFoundError:
        raise InputError(
            f"run '{run}' keeps no job",
            valid="a folder in which `edgekit deploy` or `edgekit demo` of this version ran",
            fix=f"Deploy the model again with all options and `--output {run}`; finished bundles are reused",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"the job of run '{run}' can't be read: {JOB}: {error}",
            fix=f"Deploy the model again with all options and `--output {run}`",
        ) from error


def bundles_of(paths: list[Path]) -> list[Path]:
    """Bundle folders, with each run folder replaced by the bundles in it. Raises InputError for a run without any."""
    from edgekit.config.runtimes import RUNTIMES
    from edgekit.runtime.bundle import MANIFEST

    order, found = [f"{target}-{precision}" for target in RUNTIMES for precision in ("float", "int8")], []
    for path in paths:
        if not is_run(path) or (path / MANIFEST).exists():
            found.append(path)
            continue
        inside = [path / name for name in order if (path / name / MANIFEST).exists()]
        if not inside:
            raise InputError(f"run '{path}' contains no bundle", fix=f"Finish it with `edgekit deploy --again {path}`")
        found += inside
    return found


def explicit_options(context: typer.Context) -> frozenset[str]:
    """Names of the parameters that the command line states."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def announce(run: Path, command: tuple[str, ...], quiet: bool) -> None:
    """Say which job a run folder stands for."""
    from edgekit.support.progress import Reporter

    Reporter(quiet).say(f"run '{run}' stands for: edgekit {shlex.join(command)}")


def check_again(model: str) -> None:
    """Raise UsageError unless MODEL is a run folder, for `--again`."""
    if not is_run(Path(model)):
        raise UsageError(f"--again needs a run folder, and '{model}' is none", valid="a folder that contains a run")


def _merged(given: Group, saved: Group, explicit: Collection[str]) -> Group:
    return replace(saved, **{each.name: getattr(given, each.name) for each in fields(saved) if each.name in explicit})


def _check_paths(saved: GivenJob, run: Path, explicit: Collection[str]) -> None:
    for name in GROUPS:
        for option, value in vars(getattr(saved, name)).items():
            if option in explicit or not (isinstance(value, Path) or _is_file_name(value)) or _exists(Path(value)):
                continue
            label = f"--{option.replace('_', '-')}"
            raise InputError(
                f"the job of run '{run}' has {label} '{value}', which is not there any more",
                fix=f"Name its new place with `{label} PATH`",
            )
    if _is_file_name(saved.model) and not os.path.exists(saved.model):
        raise InputError(
            f"the job of run '{run}' has the model '{saved.model}', which is not there any more",
            fix=f"Move it back, or deploy it from its new place with all options and `--output {run}`",
        )


def _is_file_name(value: object) -> bool:
    """Whether a text of a kept job is the path of a file. Such paths are absolute, and no other value is."""
    return isinstance(value, str) and os.path.isabs(value)


def _exists(path: Path) -> bool:
    """Whether a path exists, which may also lie in a zip."""
    if path.exists():
        return True
    try:
        check_images(path)
    except DataError:
        return False
    return True


def _plain(job: GivenJob) -> dict[str, Any]:
    """The job as JSON values, with absolute paths and without the output, which is where it is kept."""
    import msgspec

    groups = {name: _absolute(getattr(job, name)) for name in GROUPS}
    groups["making"] = replace(groups["making"], output=None)
    kept = replace(job, model=_absolute_text(job.model), **groups)
    plain: dict[str, Any] = msgspec.to_builtins(kept, enc_hook=str)
    return plain


def _absolute(group: Any) -> Any:
    changes: dict[str, Any] = {}
    for name, value in vars(group).items():
        if isinstance(value, Path):
            changes[name] = value.absolute()
        elif name in ("weights", "recipe", "device_class") and value is not None:
            changes[name] = _absolute_text(value)
    return replace(group, **changes)


def _absolute_text(value: str) -> str:
    """The absolute path of a file or of a folder with a saved model; other texts, such as a name, as they are."""
    path = Path(value)
    return str(path.absolute()) if path.is_file() or (path / "config.json").is_file() else value


def arguments_of(group: Any) -> Iterator[str]:
    """The command-line arguments that state the options of a group that aren't at their default."""
    for each in fields(group):
        value, option = getattr(group, each.name), f"--{each.name.replace('_', '-')}"
        if value == each.default:
            continue
        if value is True:
            yield option
            continue
        for item in value if isinstance(value, list) else [value]:
            yield from (option, _text(item))


def _text(value: object) -> str:
    """A value as a user would type it: 2 instead of 2.0 for a number, and a text as it is."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
