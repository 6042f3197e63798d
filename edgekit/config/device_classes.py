"""Device classes: what bundles are made for, from targets/*.toml."""

from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from edgekit.config.precisions import Precision
from edgekit.config.runtimes import RUNTIMES
from edgekit.config.toml_reader import build, read_table, shipped_names, unknown
from edgekit.errors import ProfileError


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
    low_precision_float: Literal["bf16", "f16"] | None = None
    """What a runtime may choose by itself instead of f32."""
    targets: tuple[str, ...] = field(default=(), metadata={"choices": RUNTIMES})
    """Runtimes in order of preference."""
    boards: tuple[str, ...] = ()
    """fnmatch patterns of the device tree's model; a class without any is told by its instruction set."""

    def bound_ms(self, macs: int, precision: Precision, threads: int) -> float:
        """Milliseconds that `macs` multiply-accumulates take if each of `threads` cores never waits: a lower bound."""
        rate = {"float": self.fp32_macs_per_cycle, "int8": self.int8_macs_per_cycle}[precision]
        return macs / (rate * self.clock_ghz * 1e6 * threads)


def list_device_classes() -> tuple[str, ...]:
    """Names of the shipped device classes, sorted."""
    return shipped_names("targets")


def load_device_class(name_or_path: str | Path) -> DeviceClass:
    """The device class of this name or in this file; ProfileError if there is none or it isn't valid."""
    where, table = read_table("targets", name_or_path, "device class")
    return build(DeviceClass, table, where)


def shipped_class(name: str) -> DeviceClass:
    """The shipped device class of this name: what a device may be called, since its own copy of edgekit has no other.

    Raises ProfileError for a path or an unknown name.
    """
    if name not in list_device_classes():
        raise ProfileError(unknown(name, list_device_classes(), "device class"))
    return load_device_class(name)


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
