"""Jobs in files: a TOML file that a user writes, and the job.json that a run folder keeps.

job.json contains local paths, while reports and bundles are shared, so nothing else has its content, and no command
copies it.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import DataError, InputError, UsageError
from edgekit.job import DEMO, Job, Stated, declarations, flag_of, kinds
from edgekit.models.options import HUB_PREFIXES, ModelOptions, folder_of, in_folder

if TYPE_CHECKING:
    from edgekit.report.document import Report
    from edgekit.report.page import NextStep

TOML = ".toml"
HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""The name of a repository on the Hugging Face hub, USER/MODEL, if there is no such folder."""


@dataclass(frozen=True, kw_only=True)
class KeptJob:
    """The document in a run folder."""

    schema_version: Literal[2] = 2
    model: str
    stated: dict[str, Any]


def job_of(model: Any, stated: Stated) -> Job:
    """The job that MODEL and the values beside it state.

    MODEL is a TOML file with a job, a run folder, whose job is used, or a model. The values replace those of a file or
    a run, except for those that are None. A run folder is the output of its job, unless another one is stated.
    """
    stated = {name: value for name, value in stated.items() if value is not None}
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        return Job.of(model, stated)
    if model.lower().endswith(TOML):
        return read_toml(Path(model)).with_values(stated)
    if HUB.fullmatch(model) and not Path(model).exists() and not Path(model).parent.exists():
        model = f"{HUB_PREFIXES[0]}{model}"
    run = run_of(model, stated.get("output"))
    if run is None:
        return Job.of(model, stated)
    return continued(run, {"output": run, **stated})


def in_memory(model: Any, transform: Any, name: str | None, images: Any) -> Any:
    """A network in memory with its name and transform, by default that of its images; any other model as it is."""
    if not isinstance(model, str | os.PathLike):
        from edgekit.images.dataset import transform_of
        from edgekit.models.module_source import name_of

        own = transform if transform is not None else transform_of(images)
        return ModelOptions(name=name or name_of(model), module=model, transform=own)
    if transform is not None or name is not None:
        parameter = "name" if transform is None else "transform"
        raise UsageError(
            f"{parameter} was given for the model '{model}'",
            valid=f"a {parameter} for a network in memory",
            fix="Leave it out, or state imgsz, mean, std, interpolation, crop_pct and crop_mode",
        )
    return model


def run_of(model: str, output: Path | None) -> Path | None:
    """The run folder that is given as MODEL; None for a model. A folder that is also the output keeps its meaning.

    Raises InputError for a path that doesn't exist.
    """
    from edgekit.report.document import is_run

    path = Path(model).expanduser()
    if os.sep in model and ":" not in model and not path.suffix and not path.exists():
        raise InputError(
            f"'{model}' doesn't exist",
            valid="a run folder, a saved model, a model's name, or hf_hub:USER/MODEL",
            fix="Correct the path",
        )
    if model == DEMO or not is_run(path) or (output is not None and Path(output).resolve() == path.resolve()):
        return None
    return path


def read_toml(file: Path) -> Job:
    """The job of a TOML file, in which `model` is the model and the other keys are fields of the job.

    Relative paths start at the file's folder. Raises InputError if the file is not readable or not valid.
    """
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = "doesn't exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise InputError(f"the job '{file}' {reason}", valid="a TOML file with the fields of a job") from error
    model = table.pop("model", None)
    if not isinstance(model, str):
        raise UsageError(f"the job '{file}' names no model", valid='a line such as model = "resnet18"')
    folder = file.absolute().parent
    stated = {name: _located(folder, name, value) for name, value in table.items()}
    return Job.of(in_folder(folder, model), stated, label=lambda name: f"{name} in '{file}'")


def _located(folder: Path, name: str, value: Any) -> Any:
    """The value of a field, with a folder in front of a relative path."""
    option = declarations().get(name)
    if option is None or not isinstance(value, str | os.PathLike):
        return value
    if isinstance(option.kind, kinds.Place | kinds.Images):
        return folder / Path(value).expanduser()
    return in_folder(folder, os.path.expanduser(value)) if isinstance(option.kind, kinds.Text) else value


def kept(job: Job) -> dict[str, Any] | None:
    """The document of a job for its run folder, with absolute paths and without the places that it writes.

    None for a model or images in memory, which can't be kept.
    """
    import msgspec

    stated = {name: value for name, value in job.stated.items() if name not in ("output", "write_recipe")}
    if not isinstance(job.model, str):
        return None
    try:
        absolute = {name: _located(Path.cwd(), name, value) for name, value in stated.items()}
        plain: dict[str, Any] = msgspec.to_builtins(
            KeptJob(model=in_folder(Path.cwd(), job.model), stated=absolute), enc_hook=_path
        )
    except NotImplementedError:
        return None
    return plain


def _path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def read_kept(run: Path) -> KeptJob:
    """The job that a run folder keeps. Raises InputError if there is none, or it is not valid."""
    import msgspec

    from edgekit.support.run_folder import JOB

    try:
        return msgspec.json.decode((run / JOB).read_bytes(), type=KeptJob)
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


def continued(run: Path, stated: Stated) -> Job:
    """The job of a run folder, after these values have replaced what it stated.

    Raises InputError if the folder has no job, or if a file of the job is not there any more.
    """
    job = read_kept(run)
    own = job.stated
    if "devices" in stated:  # whose class decides, unless another is stated
        own = {name: value for name, value in own.items() if name != "device_class"}
    _check_paths(job.model, own, run, stated)
    return Job.of(job.model, {**own, **stated})


def _check_paths(model: str, own: Stated, run: Path, stated: Stated) -> None:
    for name, value in own.items():
        if name in stated or not _is_file_name(value) or _exists(Path(value)):
            continue
        label = flag_of(name)
        raise InputError(
            f"the job of run '{run}' has {label} '{value}', which is not there any more",
            fix=f"Name its new place with `{label} PATH`",
        )
    if _is_file_name(model) and not os.path.exists(folder_of(model) or model):
        raise InputError(
            f"the job of run '{run}' has the model '{model}', which is not there any more",
            fix=f"Move it back, or deploy it from its new place with all options and `--output {run}`",
        )


def _is_file_name(value: object) -> bool:
    """Whether a value of a kept job is the path of a file. Such paths are absolute, and no other value is."""
    return isinstance(value, str) and os.path.isabs(value)


def _exists(path: Path) -> bool:
    """Whether a path exists, which may also lie in a zip."""
    if path.exists():
        return True
    try:
        kinds.check_images(path)
    except DataError:
        return False
    return True


def steps_after(report: "Report", folder: Path) -> "Iterator[NextStep]":
    """The next commands after `edgekit deploy` or `demo`: for the bundle to ship, and for what failed."""
    from edgekit.measure.evaluation import images_left
    from edgekit.report.sentences import rows_whose_accuracy, steps_after_run
    from edgekit.support.run_folder import keeps_job

    left = None
    unsure = rows_whose_accuracy(report.results, "inconclusive")
    if unsure and keeps_job(folder) and (job := continued(folder, {})).num_eval_samples:
        taken = 0 if job.calibration_data else report.calibration.count
        left = images_left(job.data, folder / str(unsure[0].bundle), taken + len(report.evaluation.unreadable))
    yield from steps_after_run(report, folder, keeps_job(folder), left)


def announce(model: str, job: Job, quiet: bool) -> None:
    """Say which job a file or a run folder stands for."""
    from edgekit.support.progress import Reporter

    if model != job.model:
        Reporter(quiet).say(f"'{model}' stands for: edgekit {shlex.join(job.command)}")
