"""Device classes (targets/*.toml) and recipes (calibration/*.toml), read strictly into frozen dataclasses.

A flag takes the name of a shipped file or the path of one's own. Adding a class or a recipe is adding a file.
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgekit.errors import ProfileError
from edgekit.targets import TARGETS

T = TypeVar("T")
Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Scheme = Literal["w8a8", "w8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""What int8 is in an int8 bundle: weights and activations, or weights alone, computed with in float."""


@dataclass(frozen=True)
class DeviceClass:
    """What bundles are made for, and how fast such a machine could be at best. Rates are per core."""

    name: str
    description: str
    processor: str
    instruction_set: tuple[str, ...]
    """Features that a machine of this class has, as /proc/cpuinfo spells them."""
    cores: int
    clock_ghz: float
    memory_gib: float
    fp32_macs_per_cycle: int
    int8_macs_per_cycle: int
    dot_product: bool
    threads: int
    targets: tuple[str, ...] = field(metadata={"choices": tuple(TARGETS)})
    """In order of preference."""
    low_precision_float: Literal["bf16", "f16"] | None = None
    """What a runtime may choose by itself instead of f32."""
    boards: tuple[str, ...] = ()
    """fnmatch patterns of the device tree's model; a class without any is told by its instruction set."""

    def bound_ms(self, macs: int, precision: Precision, threads: int) -> float:
        """Milliseconds that `macs` multiply-accumulates take if each of `threads` cores never waits: a lower bound."""
        rate = {"float": self.fp32_macs_per_cycle, "int8": self.int8_macs_per_cycle}[precision]
        return macs / (rate * self.clock_ghz * 1e6 * threads)


@dataclass(frozen=True)
class TargetRecipe:
    """What one runtime wants: exact rewrites by name, where Q/DQ go, and what it has in place of the recipe's own."""

    rewrites: tuple[str, ...]
    activations: Literal["uint8", "int8"]
    quantize_outputs: bool
    quantize_depthwise: bool
    quantize_gelu: bool = False
    """Where outputs are quantized, GELU's behind them too: from int8 to int8 it is a table of 256 values."""
    quantize_residuals: bool = False
    """Residual sums and max pooling behind a quantized layer go from int8 to int8."""
    hard_swish_in_float: bool = False
    """HardSwish between Q/DQ spelled out as a product: LiteRT's converter leaves that in float."""
    estimator: Literal["histogram", "minmax", "mean-minmax", "mse"] | None = None
    """None, here and below: as the recipe says."""
    smooth_quant: bool | None = None
    bias_correction: Literal["none", "fast"] | None = None
    float_layers: tuple[str, ...] | None = None
    on: Mapping[str, "TargetRecipe"] = field(default_factory=dict, metadata={"variants": True})
    """What is wanted instead on device classes whose name fits an fnmatch pattern; the first that fits counts."""


PLAIN = TargetRecipe(rewrites=(), activations="int8", quantize_outputs=False, quantize_depthwise=False)
"""What a recipe says of a target that it has no table for."""


@dataclass(frozen=True)
class Recipe:
    """How to calibrate a family of models. The file has a table for each target beside these keys."""

    name: str
    description: str
    targets: Mapping[str, TargetRecipe] = field(metadata={"tables": TARGETS})
    architectures: tuple[str, ...] = ()
    """fnmatch patterns of model names that take this recipe unasked."""
    scheme: Scheme = "w8a8"
    num_calibration_samples: int = 128
    estimator: Literal["histogram", "minmax", "mean-minmax", "mse"] = "histogram"
    smooth_quant: bool = False
    bias_correction: Literal["none", "fast"] = "none"
    equalization: float | None = None
    """How much of a channel's range goes into the weights behind it where that is free, up to 1; None for nothing."""
    weight_rounding: Literal["nearest", "gptq"] = "nearest"
    float_layers: tuple[str, ...] = ()
    """fnmatch patterns of layers that stay in float."""

    def for_target(self, target: str) -> "Recipe":
        """The recipe as one target has it: what its table says itself stands in the recipe's place."""
        row = self.targets[target]
        own = {key: getattr(row, key) for key in OWN if getattr(row, key) is not None}
        plain = replace(row, estimator=None, smooth_quant=None, bias_correction=None, float_layers=None)
        if self.scheme == "w8":  # the others are about activations in int8
            own |= {"smooth_quant": False, "bias_correction": "none", "equalization": None}
        return replace(self, targets={**self.targets, target: plain}, **own)

    def for_class(self, device_class: str) -> "Recipe":
        """The recipe as one device class has it: where a target's table says something for it, that is the table."""
        rows = {
            name: next((row.on[each] for each in row.on if fnmatchcase(device_class, each)), replace(row, on={}))
            for name, row in self.targets.items()
        }
        return replace(self, targets=rows)


OWN = ("estimator", "smooth_quant", "bias_correction", "float_layers")
"""What a target's table may say for itself."""


def data_folder(kind: Literal["targets", "calibration"]) -> Traversable:
    """Where the shipped files are: inside an installed package, or beside it in a checkout."""
    installed = files("edgekit") / "_data" / kind
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / kind


def list_device_classes() -> tuple[str, ...]:
    """Names of the shipped device classes, sorted."""
    return _names("targets")


def list_recipes() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    return _names("calibration")


def load_device_class(name_or_path: str | Path) -> DeviceClass:
    """The device class of this name or in this file; ProfileError if there is none or it isn't valid."""
    where, table = _read("targets", name_or_path, "device class")
    return _build(DeviceClass, table, where)


def shipped_class(name: str) -> DeviceClass:
    """The shipped device class of this name: what a device may be called, since its own copy of edgekit has no other.

    Raises ProfileError for a path or an unknown name.
    """
    if name not in list_device_classes():
        raise ProfileError(_unknown(name, list_device_classes(), "device class"))
    return load_device_class(name)


def load_recipe(name_or_path: str | Path, rewrites: Collection[str] | None = None) -> Recipe:
    """The recipe of this name or in this file; `rewrites` are the pass names that are valid, None for any.

    Raises ProfileError if there is none or it isn't valid.
    """
    where, table = _read("calibration", name_or_path, "recipe")
    return parse_recipe(table, where, rewrites)


def parse_recipe(table: Mapping[str, Any], where: str, rewrites: Collection[str] | None = None) -> Recipe:
    """The recipe that a table holds as its TOML would, checked as `load_recipe` does; `where` is what messages name."""
    recipe = _build(Recipe, table, where)
    for name, target in recipe.targets.items():
        for rewrite in {each: None for row in (target, *target.on.values()) for each in row.rewrites}:
            if rewrites is not None and rewrite not in rewrites:
                raise ProfileError(f"{where}: [{name}] rewrites: {_unknown(rewrite, rewrites, 'pass')}")
    if recipe.equalization is not None and recipe.equalization > 1:
        raise ProfileError(f"{where}: equalization is {recipe.equalization}: it takes a number above 0, up to 1.")
    return recipe


def recipe_for(model_name: str, rewrites: Collection[str] | None = None) -> Recipe:
    """The shipped recipe whose longest pattern fits this model's name."""
    name = model_name.rsplit("/", 1)[-1].lower()
    recipes = [load_recipe(each, rewrites) for each in list_recipes()]
    fits = [(len(pattern), r) for r in recipes for pattern in r.architectures if fnmatchcase(name, pattern)]
    return max(fits, key=lambda fit: fit[0])[1]


def class_of(board: str | None, features: Collection[str]) -> str | None:
    """The class of a machine, told by its device tree's model, else by the CPU's features; None when nothing fits."""
    classes = [load_device_class(name) for name in list_device_classes()]
    if board:
        return next((c.name for c in classes if any(fnmatchcase(board, pattern) for pattern in c.boards)), None)
    fits = [c for c in classes if not c.boards and set(c.instruction_set) <= set(features)]
    # Later levels of an instruction set contain earlier ones, and a faster one is what tells them apart.
    return max(fits, key=lambda c: c.int8_macs_per_cycle).name if fits else None


def host_class(root: Path = Path("/")) -> str | None:
    """The class of this machine, or None when nothing fits. `root` is where proc and sys are."""
    model, cpuinfo = root / "sys/firmware/devicetree/base/model", root / "proc/cpuinfo"
    board = model.read_text(errors="replace").strip("\0 \n") if model.is_file() else None
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return class_of(board, flags.partition(":")[2].split())


def _names(kind: Literal["targets", "calibration"]) -> tuple[str, ...]:
    return tuple(sorted(f.name.removesuffix(".toml") for f in data_folder(kind).iterdir() if f.name.endswith(".toml")))


def _unknown(name: str, choices: Collection[str], what: str = "value") -> str:
    near = get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"unknown {what} '{name}': valid are {', '.join(choices)}." + (f" Did you mean '{near[0]}'?" if near else "")


def _read(kind: Literal["targets", "calibration"], given: str | Path, what: str) -> tuple[str, dict[str, Any]]:
    """(how to call it in messages, its table) of a shipped file's name or of a path."""
    file: Traversable
    if isinstance(given, Path) or given.endswith(".toml") or "/" in given or "\\" in given:
        file = Path(given)
        where = str(given)
    elif given in _names(kind):
        file, where = data_folder(kind) / f"{given}.toml", f"{kind}/{given}.toml"
    else:
        raise ProfileError(f"{_unknown(given, _names(kind), what)} A path to a .toml file works too.")
    try:
        return where, tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{what} '{where}' can't be read: {error}. Shipped: {', '.join(_names(kind))}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{what} '{where}' is not TOML: {error}") from error


def _build(cls: type[T], table: Any, where: str) -> T:
    """An instance of a dataclass from a table: its fields are the keys, their types and metadata what is valid."""
    if not isinstance(table, dict):
        raise ProfileError(f"{where} is {_show(table)}: it takes a table.")
    hints, all_fields = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    keys = [key for f in all_fields for key in f.metadata.get("tables", (f.name,))]
    for key in table:
        if key not in keys:
            raise ProfileError(f"{where}: {_unknown(key, keys, 'key')}")
    values: dict[str, Any] = {}
    for f in all_fields:
        hint, at = hints[f.name], f"{where}: {f.name}"
        if "tables" in f.metadata:
            row = get_args(hint)[1]
            values[f.name] = {
                k: _build(row, table[k], f"{where}: [{k}]") if k in table else PLAIN for k in f.metadata["tables"]
            }
        elif "variants" in f.metadata:
            values[f.name] = _variants(cls, table, f.name, where)
        elif f.name in table:
            values[f.name] = _convert(table[f.name], hint, at, f.metadata.get("choices"))
        elif f.default is MISSING:
            raise ProfileError(f"{where}: key '{f.name}' is missing: {_describe(hint)}.")
    return cls(**values)


def _variants(cls: type[T], table: dict[str, Any], key: str, where: str) -> dict[str, T]:
    """The tables in `table[key]`, each laid over the other keys of `table`."""
    base = {name: value for name, value in table.items() if name != key}
    given = table.get(key, {})
    if not isinstance(given, dict) or not all(isinstance(each, dict) and key not in each for each in given.values()):
        raise ProfileError(f"{where}: {key} is {_show(given)}: it takes a table for each pattern of device classes.")
    return {pattern: _build(cls, base | each, f"{where}.{key}.{pattern}") for pattern, each in given.items()}


def _convert(value: Any, kind: Any, where: str, choices: Collection[str] | None) -> Any:
    """`value` as `kind`: str, bool, int, float, Literal, tuple of str, or one of these and None."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # TOML has no null: a key that is there isn't None
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or (choices and not value):
            raise ProfileError(f"{where} is {_show(value)}: it takes {_describe(kind)}.")
        return tuple(_convert(each, get_args(kind)[0], where, choices) for each in value)
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    fits = {str: isinstance(value, str), bool: isinstance(value, bool), float: number}
    if not fits.get(kind, number and isinstance(value, int)):
        raise ProfileError(f"{where} is {_show(value)}: it takes {_describe(kind, choices)}.")
    if choices and value not in choices:
        raise ProfileError(f"{where}: {_unknown(value, choices)}")
    return float(value) if kind is float else value


def _describe(kind: Any, choices: Collection[str] | None = None) -> str:
    if get_origin(kind) is tuple:
        return "a list of strings"
    if get_origin(kind) is Literal or choices:
        return f"one of {', '.join(choices or get_args(kind))}"
    names = {str: "a string", bool: "true or false", int: "a whole number above 0", float: "a number above 0"}
    return names[kind]


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
