"""Device classes, and the reader of TOML files.

Read TOML files, shipped or the user's, strictly into frozen dataclasses.

Device classes: descriptions of the machines that bundles are made for, read from targets/*.toml.
"""

import tomllib
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgekit.config.runtimes import RUNTIMES, Precision
from edgekit.errors import ProfileError, as_sentences, did_you_mean

T = TypeVar("T")


def data_folder(kind: Literal["targets", "calibration"]) -> Traversable:
    """Folder of the shipped files: inside an installed package, or next to the package in a checkout."""
    installed = files("edgekit") / "_data" / kind
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / kind


def shipped_names(kind: Literal["targets", "calibration"]) -> tuple[str, ...]:
    """Names of the shipped files, sorted."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in data_folder(kind).iterdir() if f.name.endswith(".toml")))


def unknown(name: str, choices: Collection[str], kind: str = "value", where: str = "", fix: str = "") -> ProfileError:
    """The error for a name that is not one of `choices`. `where` is the place in a file, if it comes from one."""
    place = f"{where}: " if where else ""
    fix = as_sentences(did_you_mean(name, choices), fix)
    return ProfileError(f"{place}unknown {kind} '{name}'", valid=", ".join(choices) or "none", fix=fix)


def read_table(kind: Literal["targets", "calibration"], source: str | Path, noun: str) -> tuple[str, dict[str, Any]]:
    """Read the shipped file of this name or the file at this path. Returns its name for messages, and its table."""
    file: Traversable
    if isinstance(source, Path) or source.endswith(".toml") or "/" in source or "\\" in source:
        file = Path(source)
        where = str(source)
    elif source in shipped_names(kind):
        file, where = data_folder(kind) / f"{source}.toml", f"{kind}/{source}.toml"
    else:
        raise unknown(source, shipped_names(kind), noun, fix="Use one of these names or the path of a .toml file")
    try:
        return where, tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        valid = f"a TOML file, or one of the shipped names {', '.join(shipped_names(kind))}"
        raise ProfileError(f"{noun} '{where}' can't be read: {error}", valid=valid) from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{noun} '{where}' is not valid TOML: {error}") from error


def build(cls: type[T], table: Any, where: str) -> T:
    """Build a dataclass from a table. Its fields are the keys; their types and metadata tell which values are valid."""
    if not isinstance(table, dict):
        raise ProfileError(f"{where} is {_show(table)}", valid="a table")
    hints, all_fields = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    keys = [key for f in all_fields for key in f.metadata.get("tables", (f.name,))]
    for key in table:
        if key not in keys:
            raise unknown(key, keys, "key", where)
    values: dict[str, Any] = {}
    for f in all_fields:
        hint, at = hints[f.name], f"{where}: {f.name}"
        if "tables" in f.metadata:
            row = get_args(hint)[1]
            values[f.name] = {
                k: build(row, table[k], f"{where}: [{k}]") if k in table else f.metadata["default"]
                for k in f.metadata["tables"]
            }
        elif "variants" in f.metadata:
            values[f.name] = _variants(cls, table, f.name, where)
        elif f.name in table:
            values[f.name] = _convert(table[f.name], hint, at, f.metadata.get("choices"))
        elif f.default is MISSING:
            raise ProfileError(f"{where}: key '{f.name}' is missing", valid=_describe(hint))
    return cls(**values)


def _variants(cls: type[T], table: dict[str, Any], key: str, where: str) -> dict[str, T]:
    """The tables in `table[key]`. Each overrides some of the other keys of `table`."""
    base = {name: value for name, value in table.items() if name != key}
    overrides = table.get(key, {})
    if not isinstance(overrides, dict) or not all(isinstance(o, dict) and key not in o for o in overrides.values()):
        raise ProfileError(f"{where}: {key} is {_show(overrides)}", valid="a table for each pattern of device classes")
    return {pattern: build(cls, base | keys, f"{where}.{key}.{pattern}") for pattern, keys in overrides.items()}


def _convert(value: Any, kind: Any, where: str, choices: Collection[str] | None) -> Any:
    """Convert `value` to `kind`: str, bool, int, float, Literal, a tuple of str, or one of these or None."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # TOML has no null, so a key that is present isn't None
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or (choices and not value):
            raise ProfileError(f"{where} is {_show(value)}", valid=_describe(kind))
        return tuple(_convert(item, get_args(kind)[0], where, choices) for item in value)
    choices = choices or get_args(kind)  # those of a Literal
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    fits = {bool: isinstance(value, bool), int: number and isinstance(value, int), float: number}
    if not fits.get(kind, isinstance(value, str)):
        raise ProfileError(f"{where} is {_show(value)}", valid=_describe(kind, choices))
    if choices and value not in choices:
        raise unknown(value, choices, where=where)
    return float(value) if kind is float else value


def _describe(kind: Any, choices: Collection[str] | None = None) -> str:
    if get_origin(kind) is tuple:
        return "a list of strings"
    if choices := choices or get_args(kind):
        return f"one of {', '.join(choices)}"
    names = {str: "a string", bool: "true or false", int: "a whole number above 0", float: "a number above 0"}
    return names[kind]


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


F16_FEATURE = "asimdhp"
"""CPU feature of Arm processors with arithmetic in f16."""


@dataclass(frozen=True)
class DeviceClass:
    """A class of machines that bundles are made for, with the processor's peak rates per core.

    Its fields are the keys of a TOML file in targets/.
    """

    name: str
    """Name of the device class, which reports show."""
    description: str
    """One sentence about the machines of this class, which `edgekit targets` prints."""
    processor: str
    """Processor of these machines, for readers."""
    instruction_set: tuple[str, ...]
    """CPU features that every machine of this class has, spelled as in /proc/cpuinfo."""
    cores: int
    """Number of cores."""
    clock_ghz: float
    """Clock frequency in GHz."""
    memory_gib: float
    """Memory of the machine in GiB. `edgekit plan` compares it with what a bundle needs."""
    fp32_macs_per_cycle: int
    """Peak multiply-accumulates in fp32 per core and clock cycle."""
    int8_macs_per_cycle: int
    """Peak multiply-accumulates in INT8 per core and clock cycle."""
    dot_product: bool
    """Whether the processor has INT8 dot-product instructions, such as SDOT or VNNI."""
    threads: int
    """Number of threads for which `edgekit plan` gives the latency at the nominal rate."""
    low_precision_float: Literal["bf16", "f16"] | None = None
    """Format that a runtime may choose by itself instead of fp32; leave it out if there is none."""
    targets: tuple[str, ...] = field(default=(), metadata={"choices": RUNTIMES})
    """Runtimes in order of preference."""
    boards: tuple[str, ...] = ()
    """fnmatch patterns of the board's model in the device tree, such as "Raspberry Pi 5*".

    A machine belongs to the class whose pattern matches its board. Machines without a device tree are matched by
    `instruction_set`, against the classes that list no boards.
    """

    @property
    def is_arm(self) -> bool:
        """Whether the machines of this class have Arm processors."""
        return "asimd" in self.instruction_set

    @property
    def has_f16(self) -> bool:
        """Whether every machine of this class is an Arm processor with arithmetic in f16."""
        return F16_FEATURE in self.instruction_set

    def nominal_ms(self, macs: int, precision: Precision, threads: int) -> float:
        """Latency of `macs` multiply-accumulates in ms if `threads` cores compute at the nominal rate and never wait.

        A machine whose clock is higher than `clock_ghz` can take less.
        """
        rate = {"float": self.fp32_macs_per_cycle, "int8": self.int8_macs_per_cycle}[precision]
        return macs / (rate * self.clock_ghz * 1e6 * threads)


def list_device_classes() -> tuple[str, ...]:
    """Names of the shipped device classes, sorted."""
    return shipped_names("targets")


def load_device_class(name_or_path: str | Path) -> DeviceClass:
    """Load the device class with this name or in this file; ProfileError if it doesn't exist or isn't valid."""
    where, table = read_table("targets", name_or_path, "device class")
    return build(DeviceClass, table, where)


def shipped_class(name: str) -> DeviceClass:
    """Load the shipped device class with this name; ProfileError for a path or an unknown name.

    A device's class must be a shipped one, because the copy of edgekit on the device has no others.
    """
    if name not in list_device_classes():
        raise unknown(name, list_device_classes(), "device class")
    return load_device_class(name)


def class_of(board: str | None, features: Collection[str]) -> str | None:
    """Name of the class that matches a machine's board or, without a board, its CPU features; None if none does."""
    classes = [load_device_class(name) for name in list_device_classes()]
    if board:
        return next((c.name for c in classes if any(fnmatchcase(board, pattern) for pattern in c.boards)), None)
    fits = [c for c in classes if not c.boards and set(c.instruction_set) <= set(features)]
    # A later level of an instruction set contains the earlier ones, so the fastest class that fits is the right one.
    return max(fits, key=lambda c: c.int8_macs_per_cycle).name if fits else None


def host_class(root: Path = Path("/")) -> str | None:
    """Name of this machine's class, or None if no class matches. `root` is the folder that contains proc and sys."""
    model = root / "sys/firmware/devicetree/base/model"
    board = model.read_text(errors="replace").strip("\0 \n") if model.is_file() else None
    return class_of(board, cpu_features(root))


def cpu_features(root: Path = Path("/")) -> list[str]:
    """CPU features of this machine, as in /proc/cpuinfo; none if it has no such file. `root` contains proc."""
    cpuinfo = root / "proc/cpuinfo"
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return flags.partition(":")[2].split()
