"""From the text of options to a job's values. Every mistake is a UsageError."""

import math
import re
from dataclasses import replace
from pathlib import Path

from edgekit.cli.groups import Calibrating, Making, Measuring, Source
from edgekit.config.precisions import PRECISIONS, SCHEMES, Precision, Scheme
from edgekit.config.runtimes import RUNTIMES, find_runtime
from edgekit.devices.registry import THIS, Device, find_device
from edgekit.errors import UsageError
from edgekit.measure.settings import Settings
from edgekit.models.arguments import parse_model_args
from edgekit.models.options import ModelOptions
from edgekit.pipeline.options import Options

LONGEST_S = 24 * 3600


def model_options(name: str, weights: str | None, source: Source) -> ModelOptions:
    """The network that was asked for."""
    return ModelOptions(
        name=name,
        weights=weights,
        model_args=parse_model_args(source.model_args or ""),
        imgsz=size_of(source.imgsz),
        mean=triple_of("mean", source.mean),
        std=triple_of("std", source.std),
        interpolation=source.interpolation,
        crop_pct=source.crop_pct,
        labels=source.labels,
    )


def demo_options(making: Making, calibrating: Calibrating, measuring: Measuring, command: tuple[str, ...]) -> Options:
    """The job on the model that edgekit ships: its own images and threads where no others were given."""
    from edgekit.models.demo import OUTPUT, THREADS, assets, demo_model

    if making.data is None:
        making = replace(making, data=assets() / "evaluation.zip")
        own = assets() / "calibration.zip"
        calibrating = replace(calibrating, calibration_data=calibrating.calibration_data or own)
    making = replace(making, output=making.output or OUTPUT)
    if measuring.threads is None:
        measuring = replace(measuring, threads=THREADS)
    return job_options(demo_model(making.weights), making, calibrating, measuring, command)


def job_options(
    model: ModelOptions,
    making: Making,
    calibrating: Calibrating | None = None,
    measuring: Measuring | None = None,
    command: tuple[str, ...] = (),
) -> Options:
    """The job that was asked for."""
    from edgekit.runtime.engine import check_threads  # numpy: --help must do without

    calibrating, measuring = calibrating or Calibrating(), measuring or Measuring()
    check_threads(measuring.threads)
    return Options(
        model=model,
        data=data_of(making.data),
        calibration_data=calibrating.calibration_data,
        targets=targets_of(making.target),
        device_class=making.device_class,
        recipe=making.recipe,
        num_calibration_samples=calibrating.num_calibration_samples,
        calibration_list=calibrating.calibration_list,
        num_eval_samples=measuring.num_eval_samples,
        seed=making.seed,
        output=making.output,
        settings=settings_of(measuring),
        devices=devices_of(measuring.device),
        offline=measuring.offline,
        force=measuring.force,
        command=command,
    )


def settings_of(given: Measuring) -> Settings:
    """How to measure, and the gates. A bound that the user states is a claim, which must be shown."""
    settings = Settings(given.threads, given.warmup, given.iterations)
    if given.min_speedup is not None:
        settings = replace(settings, min_speedup=given.min_speedup, must_be_fit=given.min_speedup > 0)
    if given.max_drop is None:
        return settings
    if math.isnan(given.max_drop):
        raise UsageError("--max-drop is not a number: give percentage points such as 0.5.")
    return replace(settings, max_drop=given.max_drop, must_show_drop=True)


def data_of(path: Path | None) -> Path:
    """The images that were given: no data set takes their place."""
    if path is None:
        raise UsageError("no images were given: name a folder or zip of labelled images with --data PATH.")
    return path


def targets_of(names: list[str] | None) -> tuple[str, ...]:
    """Names that were asked for, checked, each once; all without any."""
    return tuple(dict.fromkeys(find_runtime(name).name for name in names)) if names else tuple(RUNTIMES)


def precisions_of(names: list[str] | None) -> tuple[Precision, ...]:
    """Precisions that were asked for, in the report's order; both without any."""
    if unknown := set(names or ()) - set(PRECISIONS):
        raise UsageError(f"--precision is '{sorted(unknown)[0]}': give {' or '.join(PRECISIONS)}.")
    return tuple(each for each in PRECISIONS if not names or each in names)


def scheme_of(name: str | None) -> Scheme | None:
    """The scheme that was asked for; None for the recipe's."""
    found: Scheme | None = next((each for each in SCHEMES if each == name), None)
    if name is not None and found is None:
        raise UsageError(f"--scheme is '{name}': give {' or '.join(SCHEMES)}.")
    return found


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """Pixels of "224" or "224x320"."""
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UsageError(f"--imgsz is '{text}': give a number of pixels such as 224, or HEIGHTxWIDTH such as 224x320.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def triple_of(name: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers of "0.5,0.5,0.5"."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise UsageError(f"--{name} is '{text}': give three numbers such as 0.485,0.456,0.406.")
    return values


def seconds_of(text: str | None) -> float | None:
    """Seconds of "90s", "10m", "1h30m" or "90"."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 1 <= total <= LONGEST_S:
        raise UsageError(f"--sustain is '{text}': give a time of 1s to 24h, such as 90s, 10m or 1h30m.")
    return float(total)


def devices_of(names: list[str] | None) -> tuple[Device, ...]:
    """Devices that were asked for, each once; this machine without any."""
    return tuple(find_device(name) for name in dict.fromkeys(names)) if names else (THIS,)
