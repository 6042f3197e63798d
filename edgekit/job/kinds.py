"""Kinds of values that a job has, and the options of these kinds: how each is declared, read and written.

Values come from a command line, a TOML or JSON file, or a Python call. `read` takes what was stated, with the name to
use for it in an error, and returns the value. Every mistake is an InputError, and is found without importing torch.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.config.runtimes import PRECISIONS, RUNTIMES, Precision, Runtime
from edgekit.errors import UsageError, WeightsError
from edgekit.models.options import ModelArgs, is_saved, parse_model_args

RANDOM = "random"
PRECISION_ALIASES: Mapping[str, Precision] = {"fp32": "float", "fp16": "float", "bf16": "float"}
"""Names of the field for the float bundle, which a runtime runs in each of these precisions that it has."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of values."""

    metavar: str | None = None
    """Placeholder of the value on the command line."""

    def read(self, label: str, stated: Any) -> Any:
        """The value that was stated under the name `label`. Raises InputError for one that isn't valid."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """True or false."""

    def read(self, label: str, stated: Any) -> bool:
        """The truth value."""
        if not isinstance(stated, bool):
            raise UsageError(f"{label} is '{stated}'", valid="true or false")
        return stated


@dataclass(frozen=True)
class Number(Kind):
    """A number between two bounds: a whole one, unless its type is float."""

    minimum: float
    maximum: float | None = None
    _: KW_ONLY
    typed: Any = int
    """Type of the number: int or float."""
    metavar: str | None = "N"

    def parsed(self, text: str) -> Any:
        """The number that a text on the command line states; the text, which `read` refuses, if it is no number."""
        for number in (int, self.typed):
            with suppress(ValueError):
                return number(text)
        return text

    def read(self, label: str, stated: Any) -> Any:
        """The number."""
        whole = self.typed is int
        types = int if whole else (int, float)
        above = self.maximum is not None and isinstance(stated, types) and stated > self.maximum
        if isinstance(stated, bool) or not isinstance(stated, types) or not stated >= self.minimum or above:
            name = "whole number" if whole else "number"
            bounds = f"of at least {self.minimum}" if self.maximum is None else f"from {self.minimum} to {self.maximum}"
            raise UsageError(f"{label} is '{stated}'", valid=f"a {name} {bounds}")
        return self.typed(stated)


LONGEST_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Duration(Kind):
    """Seconds: a number, or a text such as "90s", "10m" or "1h30m"."""

    metavar: str | None = "TIME"

    def read(self, label: str, stated: Any) -> float:
        """The number of seconds."""
        match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", str(stated).strip())
        hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
        total = stated if isinstance(stated, float) else 3600 * hours + 60 * minutes + seconds
        if not 1 <= total <= LONGEST_S:
            raise UsageError(f"{label} is '{stated}'", valid="a time from 1s to 24h, such as 90s, 10m or 1h30m")
        return float(total)


@dataclass(frozen=True)
class Text(Kind):
    """A text, which `check` refuses with an InputError if it isn't valid."""

    check: Callable[[str], object] = str

    def read(self, label: str, stated: Any) -> str:
        """The text."""
        if not isinstance(stated, str | os.PathLike):
            raise UsageError(f"{label} is '{stated}'", valid="a text")
        text = os.path.expanduser(stated)
        self.check(text)
        return text


@dataclass(frozen=True)
class Place(Kind):
    """The path of a file or folder, which `check` refuses with an InputError if it isn't usable."""

    check: Callable[[Path], object] = Path
    _: KW_ONLY
    metavar: str | None = "FILE"

    def read(self, label: str, stated: Any) -> Path:
        """The path."""
        if not isinstance(stated, str | os.PathLike):
            raise UsageError(f"{label} is '{stated}'", valid="a path")
        path = Path(stated).expanduser()
        self.check(path)
        return path


@dataclass(frozen=True)
class ClassNames(Place):
    """The path of a file with a name for each class, or the names themselves."""

    def read(self, label: str, stated: Any) -> Any:
        """The path, or the names."""
        if isinstance(stated, list | tuple) and all(isinstance(name, str) for name in stated):
            return tuple(stated)
        return super().read(label, stated)


@dataclass(frozen=True, kw_only=True)
class Images(Kind):
    """The path of an image set, or images in memory: a torch `Dataset`, or an iterable of (image, label)."""

    metavar: str | None = "PATH"

    def read(self, label: str, stated: Any) -> Any:
        """The path, or the images themselves."""
        if isinstance(stated, str | os.PathLike):
            path = Path(stated).expanduser()
            check_images(path)
            return path
        if not hasattr(stated, "__getitem__") and not hasattr(stated, "__iter__"):
            raise UsageError(
                f"{label} is a {type(stated).__name__}",
                valid="a path, a torch Dataset, or an iterable of (image, label)",
            )
        return stated


@dataclass(frozen=True)
class OneOf(Kind):
    """One of several names."""

    names: tuple[str, ...]

    def read(self, label: str, stated: Any) -> str:
        """The name."""
        if stated not in self.names:
            several = " or ".join(self.names) if len(self.names) == 2 else ", ".join(self.names)
            raise UsageError(f"{label} is '{stated}'", valid=several)
        return str(stated)


@dataclass(frozen=True)
class Names(Kind):
    """Several names: a list, or a text that separates them by commas."""

    resolve: Callable[[str, list[str]], tuple[str, ...]]
    """Turns the label and the names into those of the job, without repetitions."""

    def read(self, label: str, stated: Any) -> tuple[str, ...]:
        """The names."""
        texts = [stated] if isinstance(stated, str) else stated
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{label} is '{stated}'", valid="a name, or a list of names")
        names = [name.strip() for text in texts for name in text.split(",")]
        if "" in names:
            raise UsageError(
                f"{label} has an empty name in '{','.join(texts)}'",
                valid="names, separated by commas without spaces",
                fix="Remove the comma too many",
            )
        return self.resolve(label, names)


@dataclass(frozen=True)
class Each(Kind):
    """Several values of one kind."""

    kind: Kind

    def read(self, label: str, stated: Any) -> list[Any]:
        """The values."""
        return [self.kind.read(label, each) for each in stated]


@dataclass(frozen=True, kw_only=True)
class Size(Kind):
    """Pixels: 224 for a square, or height and width, as "224x320" or (224, 320)."""

    metavar: str | None = "SIZE"

    def read(self, label: str, stated: Any) -> int | tuple[int, int]:
        """The side of a square, or height and width."""
        from edgekit.images.preprocess import MAX_SIDE  # numpy: --help must do without

        sides = _sides(stated)
        if len(sides) not in (1, 2) or not all(1 <= side <= MAX_SIDE for side in sides):
            raise UsageError(
                f"{label} is '{stated}'",
                valid=f"a number of pixels from 1 to {MAX_SIDE}, such as 224, or HEIGHTxWIDTH, such as 224x320",
            )
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])


SHORTEST_SIDE, LONGEST_SIDE = 32, 8192
"""Sides in pixels of the frames that cameras give."""


@dataclass(frozen=True, kw_only=True)
class Frame(Kind):
    """Width and height of a camera's frames in pixels, as "1920x1080" or (1920, 1080)."""

    metavar: str | None = "SIZE"

    def read(self, label: str, stated: Any) -> tuple[int, int]:
        """Width and height."""
        sides = _sides(stated)
        if len(sides) != 2 or not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in sides):
            raise UsageError(
                f"{label} is '{stated}'",
                valid=f"WIDTHxHEIGHT, such as 1920x1080, each from {SHORTEST_SIDE} to {LONGEST_SIDE} pixels",
            )
        return sides[0], sides[1]


def _sides(stated: Any) -> list[int]:
    """The sides in pixels that a text, a number or several numbers state; none for anything else."""
    parts = stated.lower().split("x") if isinstance(stated, str) else stated
    try:
        return [int(part) for part in (parts if isinstance(parts, list | tuple) else [parts])]
    except (TypeError, ValueError):
        return []


@dataclass(frozen=True, kw_only=True)
class Portion(Kind):
    """One of several parts: "3/64", or (3, 64), for the third of 64."""

    metavar: str | None = "I/N"

    def read(self, label: str, stated: Any) -> tuple[int, int]:
        """The number of the part, from 1, and the number of parts."""
        text = "/".join(map(str, stated)) if isinstance(stated, tuple | list) else str(stated)
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, count = (int(part) for part in match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(
                f"{label} is '{text}'",
                valid="I/N, a part from 1 to N of N parts, such as 3/64",
                fix=f"Run the parts {label} 1/{count or 64} to {label} {count or 64}/{count or 64}",
            )
        return number, count


@dataclass(frozen=True)
class Channels(Kind):
    """A number for each of red, green and blue, or one for grey: "0.5,0.5,0.5" or (0.5, 0.5, 0.5)."""

    example: str
    above_zero: bool = False
    _: KW_ONLY
    metavar: str | None = "R,G,B"

    def read(self, label: str, stated: Any) -> tuple[float, ...]:
        """The numbers."""
        from edgekit.images.preprocess import CHANNELS  # numpy: --help must do without

        parts = stated.split(",") if isinstance(stated, str) else stated
        try:
            values = tuple(float(part) for part in (parts if isinstance(parts, Sequence) else [parts]))
        except (TypeError, ValueError):
            values = ()
        usable = all(math.isfinite(value) and (value > 0 or not self.above_zero) for value in values)
        if len(values) not in CHANNELS or not usable:
            raise UsageError(
                f"{label} is '{stated}'",
                valid=f"three numbers{' above 0' if self.above_zero else ''} for red, green and blue, such as "
                f"{self.example}, or one for grey images",
            )
        return values


@dataclass(frozen=True, kw_only=True)
class Arguments(Kind):
    """Keyword arguments: "num_classes=10,conv_mlp=True" or a mapping."""

    metavar: str | None = "KEY=VALUE"

    def read(self, label: str, stated: Any) -> ModelArgs:
        """The arguments by name."""
        if isinstance(stated, Mapping):
            return dict(stated)
        if not isinstance(stated, str):
            raise UsageError(f"{label} is '{stated}'", valid="KEY=VALUE, separated by commas")
        return parse_model_args(stated)


def targets(label: str, names: list[str]) -> tuple[str, ...]:
    """The names of the runtimes, for which some have several."""
    return tuple(dict.fromkeys(Runtime.called(name).name for name in names))


def precisions(label: str, names: list[str]) -> tuple[Precision, ...]:
    """The precisions in the order of the report."""
    chosen = {PRECISION_ALIASES.get(name, name) for name in names}
    if unknown := sorted(chosen - set(PRECISIONS)):
        raise UsageError(f"{label} is '{unknown[0]}'", valid=", ".join((*PRECISIONS, *PRECISION_ALIASES)))
    return tuple(precision for precision in PRECISIONS if precision in chosen)


def check_images(path: Path) -> None:
    """Raise DataError unless the path is an image set in one of the layouts, or a part of one."""
    from edgekit.images.dataset import open_layout  # numpy

    open_layout(path)


def check_calibration_list(path: Path) -> None:
    """Raise DataError unless this is the calibration.json of a run."""
    from edgekit.images.selection import CalibrationList  # numpy

    CalibrationList.read(path)


def check_weights(weights: str) -> None:
    """Raise WeightsError unless this is a file, a folder with a saved model, or `random`."""
    if weights == RANDOM or is_saved(Path(weights)):
        return
    problem = "is a folder without config.json" if Path(weights).is_dir() else "doesn't exist"
    raise WeightsError(
        f"the checkpoint '{weights}' {problem}",
        valid="a .safetensors, .pth, .pt, .bin or .ckpt file, a folder that save_pretrained wrote, or random for "
        "untrained weights",
        fix="Correct --weights, or leave it out for the published weights",
    )


def check_wheels(path: Path) -> None:
    """Raise UsageError unless this is a folder."""
    if not path.is_dir():
        raise UsageError(f"the packages '{path}' don't exist", valid="a folder with wheels", fix="Correct --wheels")


def check_labels(path: Path) -> None:
    """Raise UsageError unless the file can be read as text."""
    try:
        path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "doesn't exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise UsageError(
            f"the labels file '{path}' {reason}",
            valid="a UTF-8 text file with one class name per line, in the order of the model's outputs",
            fix="Correct --labels",
        ) from error


RUNTIME_NAMES = ", ".join(
    runtime.name + (f" (or {', '.join(runtime.aliases)})" if runtime.aliases else "") for runtime in RUNTIMES.values()
)
"""The names that `--target` takes, in words."""


Panel = Literal["Model", "Images", "Bundles", "Device", "Measurement", "Gates", "Output"]


SPELLING: ContextVar[Literal["flag", "parameter"] | None] = ContextVar("spelling", default=None)
"""How the caller wrote the options: on a command line, or in Python; None, which means a command line, for neither."""


@contextmanager
def spelled(how: Literal["flag", "parameter"]) -> Iterator[None]:
    """Name options in errors inside as this caller wrote them, or one that called it."""
    spelling = SPELLING.set(SPELLING.get() or how)
    try:
        yield
    finally:
        SPELLING.reset(spelling)


def plain(value: Any) -> Any:
    """A scalar or an array of numpy as values of Python, and a set as a sorted list; others as they are."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if type(value).__module__ == "numpy" else value


OPTION = "option"
"""Key of a field's metadata that has the declaration."""


@dataclass(frozen=True)
class Option:
    """The declaration of a field of a job."""

    panel: Panel | None
    """Title of the panel of `--help` that it is in; None for an argument."""
    kind: Kind
    """Kind of its values."""
    help: str
    """Sentences that say what it means."""
    _: KW_ONLY
    default: str | None = None
    """Default in words, if the value doesn't speak for itself."""
    flags: tuple[str, ...] = ()
    """Ways to write it on the command line; none for the name of the field with two hyphens."""
    turns_off: bool = False
    """Whether its flag stands for False."""
    advanced: bool = False
    """Whether only `--help-all` lists it."""

    def flags_of(self, name: str) -> tuple[str, ...]:
        """Every way to write the field of this name on the command line."""
        return self.flags or (f"--{name.replace('_', '-')}",)

    def label(self, name: str) -> str:
        """The name in errors of the option of this name: as the caller wrote it."""
        return name if SPELLING.get() == "parameter" else self.flags_of(name)[0]

    def stated(self, typed: Any) -> Any:
        """What was typed on the command line as a value that `read` takes; None if nothing was."""
        if typed in (None, ()):
            return None
        if isinstance(self.kind, Flag):
            return typed is not self.turns_off
        return self.kind.parsed(typed) if isinstance(self.kind, Number) else typed

    @property
    def meaning(self) -> str:
        """What a value means: the help of the flag, which for some stands for False."""
        return f"If False, {self.help[0].lower()}{self.help[1:]}" if self.turns_off else self.help


def option(panel: Panel, kind: Kind, help: str, *, value: Any = None, **more: Any) -> Any:
    """A field of a job that a user can state, with this default. `more` are further fields of its `Option`."""
    return field(default=value, metadata={OPTION: own(panel, kind, help, value=value, **more)})


@dataclass(frozen=True)
class Own:
    """An option with its default: that of a function's parameter, or in the metadata of a job's field."""

    value: Any
    """Its default."""
    option: Option

    def read(self, name: str, stated: Any) -> Any:
        """The value that was stated for the parameter of this name; the default if it is None."""
        return self.value if stated is None else self.option.kind.read(self.option.label(name), plain(stated))


def own(panel: Panel, kind: Kind, help: str, *, value: Any = None, **more: Any) -> Any:
    """An option of a function's own, with this default. `more` are further fields of its `Option`."""
    return Own(value, Option(panel, kind, help, **more))
