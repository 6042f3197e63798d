"""Converts the text of options into the values of a job.

Every mistake is an InputError, and is raised before torch is loaded.
"""

import math
import re
from dataclasses import replace
from pathlib import Path

from edgekit.cli.checks import check_job, check_labels, check_weights
from edgekit.cli.groups import Calibrating, Making, Measuring, Source
from edgekit.config.interpolations import INTERPOLATIONS
from edgekit.config.precisions import PRECISIONS, SCHEMES, Precision, Scheme
from edgekit.config.runtimes import RUNTIMES, runtime_called
from edgekit.devices.registry import LOCAL, THIS, Device, PageScheme, find_device
from edgekit.errors import UsageError
from edgekit.measure.settings import Gates, Timing
from edgekit.models.arguments import parse_model_args
from edgekit.models.options import ModelOptions
from edgekit.pipeline.options import Options

LONGEST_S = 24 * 3600


def model_options(name: str, weights: str | None, source: Source) -> ModelOptions:
    """The network that the options of a command describe."""
    check_weights(weights)
    check_labels(source.labels)
    return ModelOptions(
        name=name,
        weights=weights,
        model_args=parse_model_args(source.model_args or ""),
        imgsz=size_of(source.imgsz),
        mean=channels_of("mean", source.mean),
        std=channels_of("std", source.std),
        interpolation=interpolation_of(source.interpolation),
        crop_pct=source.crop_pct,
        labels=source.labels,
    )


def demo_options(making: Making, calibrating: Calibrating, measuring: Measuring, command: tuple[str, ...]) -> Options:
    """The job on edgekit's own model, with its own images and threads where the user gave none."""
    from edgekit.models.demo import OUTPUT, THREADS, assets, demo_model

    check_weights(making.weights)
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
    """The job that the options of a command describe."""
    calibrating, measuring = calibrating or Calibrating(), measuring or Measuring()
    options = Options(
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
        timing=timing_of(measuring.threads, measuring.warmup, measuring.iterations, measuring.min_speedup),
        gates=gates_of(measuring.max_drop, measuring.min_speedup),
        devices=devices_of(measuring.device, measuring.offline, measuring.web_network, measuring.web_runtime),
        force=measuring.force,
        thumbnails=not measuring.no_thumbnails,
        command=command,
    )
    check_job(options)
    return options


def timing_of(threads: int | None, warmup: int, iterations: int | None, min_speedup: float | None) -> Timing:
    """The timing. It runs for all rounds if the user states their number, or a speed-up to confirm."""
    timing = Timing(threads, warmup, may_end_early=not min_speedup)
    return timing if iterations is None else replace(timing, iterations=iterations, may_end_early=False)


def gates_of(max_drop: float | None = None, min_speedup: float | None = None) -> Gates:
    """The gates. A bound that the user states is a claim, which the interval must confirm."""
    gates = Gates()
    if min_speedup is not None:
        gates = replace(gates, min_speedup=min_speedup, needs_steady_timing=min_speedup > 0)
    return gates if max_drop is None else replace(gates, max_drop=max_drop, must_show_drop=True)


def data_of(path: Path | None) -> Path:
    """The images that the user gave; there is no default."""
    if path is None:
        from edgekit.images.layouts.lookup import VALID

        raise UsageError(
            "no images were given",
            valid=VALID,
            fix="Name labelled images with --data PATH",
        )
    return path


def listed(option: str, values: list[str] | None) -> list[str]:
    """The names in the values of an option that takes several: repeated, separated by commas, or both."""
    names = [name.strip() for value in values or () for name in value.split(",")]
    if "" in names:
        raise UsageError(
            f"{option} has an empty name in '{','.join(values or ())}'",
            valid="names, separated by commas without spaces",
            fix="Remove the comma too many",
        )
    return names


def targets_of(names: list[str] | None) -> tuple[str, ...]:
    """The runtimes that the user chose, without repetitions; all if there are none."""
    chosen = listed("--target", names)
    return tuple(dict.fromkeys(runtime_called(name).name for name in chosen)) if chosen else tuple(RUNTIMES)


def precisions_of(names: list[str] | None) -> tuple[Precision, ...]:
    """The precisions that the user chose, in the report's order; both if there are none."""
    chosen = listed("--precision", names)
    if unknown := sorted(set(chosen) - set(PRECISIONS)):
        raise UsageError(f"--precision is '{unknown[0]}'", valid=" or ".join(PRECISIONS))
    return tuple(precision for precision in PRECISIONS if not chosen or precision in chosen)


def scheme_of(name: str | None) -> Scheme | None:
    """The INT8 scheme that the user chose; None for the recipe's."""
    scheme: Scheme | None = next((scheme for scheme in SCHEMES if scheme == name), None)
    if name is not None and scheme is None:
        raise UsageError(f"--scheme is '{name}'", valid=" or ".join(SCHEMES))
    return scheme


def interpolation_of(name: str | None) -> str | None:
    """The filter that the user chose; None for the model's own."""
    if name is not None and name not in INTERPOLATIONS:
        raise UsageError(f"--interpolation is '{name}'", valid=", ".join(INTERPOLATIONS))
    return name


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """Pixels of "224" or "224x320"."""
    if text is None:
        return None
    from edgekit.images.preprocess import MAX_SIDE  # numpy: --help must do without

    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UsageError(
            f"--imgsz is '{text}'",
            valid=f"a number of pixels from 1 to {MAX_SIDE}, such as 224, or HEIGHTxWIDTH, such as 224x320",
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def channels_of(name: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers of "0.5,0.5,0.5", or one of "0.5". A standard deviation must be above 0."""
    from edgekit.images.preprocess import CHANNELS  # numpy: --help must do without

    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    above_zero = name != "std" or all(value > 0 for value in values)
    if len(values) not in CHANNELS or not above_zero or not all(map(math.isfinite, values)):
        example = "0.229,0.224,0.225" if name == "std" else "0.485,0.456,0.406"
        raise UsageError(
            f"--{name} is '{text}'",
            valid=f"three numbers{' above 0' if name == 'std' else ''} for red, green and blue, such as {example}, or "
            "one for grey images",
        )
    return values


def seconds_of(text: str | None) -> float | None:
    """Seconds of "90s", "10m", "1h30m" or "90"."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 1 <= total <= LONGEST_S:
        raise UsageError(f"--sustain is '{text}'", valid="a time from 1s to 24h, such as 90s, 10m or 1h30m")
    return float(total)


def devices_of(
    names: list[str] | None,
    offline: bool = False,
    web_network: PageScheme | None = None,
    web_runtime: Path | None = None,
) -> tuple[Device, ...]:
    """The devices that the user chose, without repetitions; this machine if there are none."""
    chosen = [find_device(name, offline, web_network, web_runtime) for name in dict.fromkeys(listed("--device", names))]
    if (web_runtime or web_network) and not any(device.is_browser for device in chosen):
        option = "--web-network" if web_network else "--web-runtime"
        raise UsageError(f"{option} is for browsers, and no device is one", fix="Add `--device web`")
    return tuple(chosen) or (THIS,)


def evaluation_browser(name: str, web_network: PageScheme | None, web_runtime: Path | None) -> Device | None:
    """The browser to evaluate in; None for this machine. Raises UsageError for a board."""
    chosen = devices_of([name], False, web_network, web_runtime)
    if chosen == (THIS,):
        return None
    if len(chosen) > 1 or not chosen[0].is_browser:
        raise UsageError(
            f"--device is '{name}'",
            valid=f"{LOCAL}, or web for a browser",
            fix="`edgekit deploy --device` also evaluates on boards, and on several devices",
        )
    return chosen[0]
