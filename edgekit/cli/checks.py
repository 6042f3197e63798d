"""Checks of a command's input that need no torch, so that a mistake shows at once and nothing is written."""

import os
import re
import shlex
from pathlib import Path

from edgekit.config.device_classes import load_device_class
from edgekit.config.recipes import load_recipe
from edgekit.errors import OutputError, UsageError, WeightsError
from edgekit.pipeline.options import Options

RANDOM = "random"
LARGEST_SEED = 2**63 - 1
# A host name or address, and a port; Dask takes tcp:// for granted.
_SCHEDULER = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")


def check_job(options: Options) -> None:
    """Raise the InputError of the first option of a job that can't be used."""
    from edgekit.support.run_folder import check_output

    check_images(options.data)
    if options.calibration_data is not None:
        check_images(options.calibration_data)
    if options.calibration_list is not None:
        from edgekit.images.calibration_list import read_list  # numpy

        read_list(options.calibration_list)
    check_device_class(options.device_class)
    check_recipe(options.recipe)
    check_output(options.folder)


def check_images(path: Path) -> None:
    """Raise DataError unless the path is an image set in one of the layouts, or a part of one."""
    from edgekit.images.layouts.lookup import open_layout  # numpy

    open_layout(path)


def check_device_class(name: str | None) -> None:
    """Raise ProfileError unless this is a shipped device class or a valid file."""
    if name is not None:
        load_device_class(name)


def check_recipe(name: str | None) -> None:
    """Raise ProfileError unless this is a shipped recipe or a valid file."""
    if name is not None:
        load_recipe(name)


def check_weights(weights: str | None) -> None:
    """Raise WeightsError unless this is a file, a folder with a saved model, `random`, or None."""
    if weights in (None, RANDOM) or Path(str(weights)).is_file() or (Path(str(weights)) / "config.json").is_file():
        return
    problem = "is a folder without config.json" if Path(str(weights)).is_dir() else "doesn't exist"
    raise WeightsError(
        f"the checkpoint '{weights}' {problem}",
        valid="a .safetensors, .pth, .pt, .bin or .ckpt file, a folder that save_pretrained wrote, or random for "
        "untrained weights",
        fix="Correct --weights, or leave it out for the published weights",
    )


def check_labels(path: Path | None) -> None:
    """Raise UsageError unless the file can be read as text."""
    if path is None:
        return
    try:
        path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "doesn't exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise UsageError(
            f"the labels file '{path}' {reason}",
            valid="a UTF-8 text file with one class name per line, in the order of the model's outputs",
            fix="Correct --labels",
        ) from error


def check_file(option: str, path: Path | None) -> None:
    """Raise OutputError unless a file can be written there. Writes nothing."""
    if path is None:
        return
    try:
        problem, fix = _obstacle(path)
    except OSError as error:
        problem, fix = error.strerror or str(error), "Choose another file"
    if problem:
        raise OutputError(
            f"{option} can't write '{path}': {problem}", valid="the path of a file in an existing folder", fix=fix
        )


def _obstacle(path: Path) -> tuple[str, str]:
    """The problem that prevents a file from being written, and its fix; two empty strings without a problem."""
    folder = path.absolute().parent
    if path.is_dir():
        return "it is a folder", f"Name a file in it, such as {path / 'NAME'}"
    if path.exists() and not path.is_file():
        return "it is not a regular file", "Choose another file"
    if not folder.is_dir():
        return f"the folder '{folder}' does not exist", f"Run: mkdir -p {shlex.quote(str(folder))}"
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        return "you have no permission", "Choose another file, or change the permissions"
    return "", ""


def check_soup_output(path: Path) -> None:
    """Raise OutputError unless a .safetensors file can be written there."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if path.suffix.lower() == ".safetensors" and not path.is_dir() and place.is_dir():
        return
    raise OutputError(
        f"the soup can't be written to '{path}'",
        valid="the path of a .safetensors file in a folder",
        fix="Correct --output",
    )


def check_seed(seed: int) -> int:
    """The seed; raises UsageError for one that torch doesn't take."""
    if seed > LARGEST_SEED:
        raise UsageError(f"--seed is {seed}", valid=f"a whole number from 0 to {LARGEST_SEED}")
    return seed


def check_scheduler(address: str | None) -> None:
    """Raise UsageError unless this looks like the address of a Dask scheduler."""
    if address is not None and not _SCHEDULER.fullmatch(address):
        raise UsageError(
            f"--scheduler is '{address}'",
            valid="the address of a Dask scheduler, such as tcp://HOST:8786",
            fix="Start one with `dask scheduler`, which prints its address",
        )
