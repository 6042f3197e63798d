"""Device classes: descriptions of the machines that bundles are made for, read from targets/*.toml."""

from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from edgekit.config.choices import Precision
from edgekit.config.runtimes import RUNTIMES
from edgekit.config.toml_reader import build, read_table, shipped_names, unknown

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
