"""Shell completion: the values that the shell offers for options and arguments.

Each function returns candidates; Typer keeps those that begin with what was typed. None of them may fail or print:
errors would appear in the line that the user is typing, so a function whose source can't be read offers nothing.
"""

import functools
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from edgekit.config.choices import PRECISIONS
from edgekit.config.device_classes import list_device_classes
from edgekit.config.recipes import list_recipes
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.registry import LOCAL, WEB, read_devices
from edgekit.support.files import replace_text
from edgekit.support.libraries import quiet

OPEN_CLIP = "open_clip"


def _offering(source: Callable[..., Iterable[str]]) -> Callable[..., list[str]]:
    """Turn a source of candidates into one that never fails."""

    @functools.wraps(source)
    def offer(**incomplete: str) -> list[str]:
        try:
            return list(source(**incomplete))
        except Exception:  # libraries, plug-ins and damaged files can raise anything
            return []

    return offer


def runtimes(incomplete: str) -> list[str]:
    """Names of the runtimes, for `--target`."""
    return _behind_commas(incomplete, RUNTIMES)


def precisions(incomplete: str) -> list[str]:
    """Precisions of bundles."""
    return _behind_commas(incomplete, PRECISIONS)


@_offering
def recipes(incomplete: str) -> Iterable[str]:
    """Shipped recipes, and TOML files."""
    return [*list_recipes(), *_files(incomplete, ".toml")]


@_offering
def device_classes(incomplete: str) -> Iterable[str]:
    """Shipped device classes, and TOML files."""
    return [*list_device_classes(), *_files(incomplete, ".toml")]


@_offering
def shipped_device_classes() -> Iterable[str]:
    """Shipped device classes."""
    return list_device_classes()


@_offering
def devices(incomplete: str) -> Iterable[str]:
    """This machine, and the devices that the user saved."""
    return _behind_commas(incomplete, (LOCAL, *saved_devices()))


@_offering
def measuring_devices(incomplete: str) -> Iterable[str]:
    """This machine, a browser, and the devices that the user saved."""
    return _behind_commas(incomplete, (LOCAL, WEB, *saved_devices()))


@_offering
def saved_devices() -> Iterable[str]:
    """The devices that the user saved."""
    return read_devices()


@_offering
def weights(incomplete: str) -> Iterable[str]:
    """`random`, and checkpoint files."""
    return ["random", *_files(incomplete, ".safetensors", ".pth", ".pt", ".bin", ".ckpt")]


@_offering
def models() -> Iterable[str]:
    """Models of timm and of open_clip."""
    return [*_timm_models(), *_open_clip_models()]


@_offering
def models_and_demo() -> Iterable[str]:
    """`demo`, and models of timm and of open_clip."""
    return ["demo", *models()]


def _behind_commas(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names that a list may go on with, each behind what was typed up to the last comma."""
    typed, comma, _ = incomplete.rpartition(",")
    taken = typed.split(",")
    return [f"{typed}{comma}{name}" for name in names if name not in taken]


def _files(incomplete: str, *suffixes: str) -> list[str]:
    """Files with one of the suffixes in the folder that was typed so far."""
    folder, slash, start = incomplete.rpartition("/")
    names = sorted(path.name for path in Path(folder + slash or ".").iterdir() if path.suffix.lower() in suffixes)
    return [f"{folder}{slash}{name}" for name in names if name.startswith(start)]


def _timm_models() -> list[str]:
    """Every architecture of timm, and every name of published weights.

    Listing them imports torch, which takes seconds, so the names are kept in a file for each version of timm.
    """
    from importlib import metadata

    from platformdirs import user_cache_path

    file = user_cache_path("edgekit", appauthor=False) / f"timm-{metadata.version('timm')}.txt"
    try:
        return file.read_text("utf-8").split()
    except FileNotFoundError:
        pass
    with quiet():
        import timm

        names = sorted({*timm.list_models(), *timm.list_models(pretrained=True)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, "".join(f"{name}\n" for name in names))
    except OSError:
        pass  # a read-only home costs the time again
    return names


def _open_clip_models() -> list[str]:
    """The models of open_clip, each of which has a configuration file in the package."""
    package = find_spec(OPEN_CLIP)
    folders = package.submodule_search_locations if package else None
    return sorted(
        f"{OPEN_CLIP}:{file.stem}" for folder in folders or () for file in Path(folder, "model_configs").glob("*.json")
    )
