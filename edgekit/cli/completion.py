"""Shell completion: the values that the shell offers for options and arguments.

Each completion returns candidates; Typer keeps those that begin with what was typed. None of them may fail or print:
errors would appear in the line that the user is typing, so a function whose source can't be read offers nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from edgekit.config.recipes import list_recipes
from edgekit.config.runtimes import PRECISIONS, RUNTIMES, DeviceClass
from edgekit.devices.registry import LOCAL, WEB, Device
from edgekit.support.files import replace_text
from edgekit.support.libraries import quiet

OPEN_CLIP = "open_clip"


def _offering(source: Callable[[], Iterable[str]], *suffixes: str, commas: bool = False) -> Callable[[str], list[str]]:
    """A completion with the names of a source, and files with these suffixes.

    With `commas`, the names may go on a list behind what was typed up to the last comma.
    """

    def offer(incomplete: str) -> list[str]:
        typed, comma, _ = incomplete.rpartition(",") if commas else ("", "", "")
        try:
            names = [f"{typed}{comma}{name}" for name in source() if name not in typed.split(",")]
            return [*names, *_files(incomplete, *suffixes)] if suffixes else names
        except Exception:  # libraries, plug-ins and damaged files can raise anything
            return []

    return offer


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


def _saved_devices() -> list[str]:
    return list(Device.saved())


def _devices() -> list[str]:
    """This machine and the saved devices; this machine alone if they can't be read."""
    return [LOCAL, *_offering(_saved_devices)("")]


def models() -> list[str]:
    """The names of models that libraries publish."""
    return [*_timm_models(), *_open_clip_models()]


_models_and_demo = _offering(lambda: ("demo", *_offering(models)("")))
OFFERS: Mapping[str, Callable[[str], list[str]]] = {
    "model": _offering(models),
    "models": _offering(models),
    "source": _offering(models),
    "model_or_demo": _models_and_demo,
    "weights": _offering(lambda: ("random",), ".safetensors", ".pth", ".pt", ".bin", ".ckpt"),
    "targets": _offering(lambda: RUNTIMES, commas=True),
    "precisions": _offering(lambda: PRECISIONS, commas=True),
    "recipe": _offering(list_recipes, ".toml"),
    "device_class": _offering(DeviceClass.listed, ".toml"),
    "class_": _offering(DeviceClass.listed),
    "devices": _offering(lambda: (LOCAL, WEB, *_devices()[1:]), commas=True),
    "device": _offering(_devices, commas=True),
    "machines": _offering(_devices, commas=True),
    "saved": _offering(_saved_devices),
}
"""The completions of arguments and options, by the names of the parameters that get their values."""
