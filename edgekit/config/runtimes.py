"""The tables of runtimes and of device classes, and the names that users choose from.

Everything that other rooms need to know about a runtime is an attribute of its row. Device classes describe the
machines that bundles are made for, in targets/*.toml. TOML files, shipped or the user's, are read strictly into frozen
dataclasses.
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgekit.errors import ProfileError, UsageError, as_sentences, did_you_mean

Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LayerKind = Literal["static", "dynamic", "float"]
"""Kinds of layers: INT8 with one range of the input for all images, INT8 with one for each row, and float."""
Scheme = Literal["w8a8", "w8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""INT8 schemes: "w8a8" quantizes weights and activations, "w8" quantizes only the weights and computes in float."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names of Pillow's filters, as `--interpolation` and a bundle's manifest give them."""
CROP_MODES = ("center", "squash", "border")
"""Ways to fit images of another aspect ratio, as `--crop-mode` and a bundle's manifest give them."""
Form = Literal["exact", "fast"]
"""The form of preprocessing: of the whole image, or of an image that is decoded at a fraction of its size."""
FORMS: tuple[Form, ...] = get_args(Form)
InputDtype = Literal["float32", "uint8"]
"""The type of a model file's input: normalized images, or the pixels of crops, which the file normalizes itself."""
INPUT_LAYOUTS: Mapping[InputDtype, Literal["NCHW", "NHWC"]] = {"float32": "NCHW", "uint8": "NHWC"}
"""Order of the axes of an input of each type."""

TASKS = {
    "single-label": "an image is of one class",
    "multi-label": "an image is of one or more classes",
    "embedding": "they are a vector, such as for search",
}
"""The tasks and what outputs mean in each, by the names that `--task` and a bundle's manifest give them."""
Labelling = Literal["one", "several", "optional"]
"""Labels of each image of a set: one, at least one, or one if the set has labels at all."""
Activation = Literal["softmax", "sigmoid", "normalize", "none"]
"""What turns a model's outputs into scores of classes, or into a vector of length 1; "none" leaves them as they are."""


COMPILER_DISTRIBUTIONS = ("torch", "torchao", "nncf", "timm")
"""Distributions that every backend compiles with. A runtime's row lists those that its own backend adds."""


@dataclass(frozen=True)
class FileLimit:
    """The size limit of a model file, and whether larger weights can go into another file."""

    size_bytes: int
    """Size in bytes that a model file has to stay below."""
    format: str
    """Kind of file, as messages name it, such as "a TFLite file"."""
    external_data: bool = False
    """Whether the backend can write larger weights into a file next to the model; if not, a larger model fails."""


Machine = Literal["x86_64", "aarch64"]


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """The platforms on which pip can install a package, on one kind of processor."""

    machine: Machine
    """Architecture of the processor, as uname prints it."""
    pythons: tuple[str, ...]
    """Python versions for which the package publishes wheels."""
    glibc: str
    """Oldest version of glibc with which pip can install it."""
    tested: tuple[str, ...] = ()
    """Places where edgekit's tests run with it."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime that edgekit compiles for. On the command line and in JSON it is called a target.

    Its folder is edgekit/runtime/NAME. The SDK runs `engine`; `profiler` finds the layers that ran in integer kernels.
    Both import only numpy and the runtime. `backend` compiles, and `lowering`, which is optional, has what quantization
    needs to know; both need torch. Each is imported when it is needed.
    """

    name: str
    """Name of the folder, of the extra in pyproject.toml, and of the table in a recipe."""
    title: str
    """Name that the runtime's own project uses."""
    aliases: tuple[str, ...] = ()
    """Other names that the command line accepts. Files and JSON have `name` alone."""
    model_suffix: str
    """Suffix of a model file, unique to this runtime."""
    companion_suffixes: tuple[str, ...] = ()
    """Suffixes of the files that a model file may need next to it. Each replaces `model_suffix`."""
    file_limit: FileLimit | None = None
    """Size limit of the model file's format, or None where no model comes near it."""
    import_names: tuple[str, ...]
    """Modules that can run the models. The first installed one is used."""
    distributions: tuple[str, ...]
    """Distributions that contain such a module. edgekit installs the first; the others are alternatives."""
    oldest_version: str
    """Oldest version of the first distribution that edgekit installs and is tested with."""
    oldest_loading_version: str
    """Oldest version of that distribution that opens the model files. Bundles refuse older ones."""
    excluded_version: str
    """First newer version of that distribution that edgekit does not accept."""
    wheels: tuple[Wheels, ...] = ()
    """Platforms on which the first distribution can be installed; empty if they aren't known."""
    compiler_distributions: tuple[str, ...]
    """Distributions that the backend imports in addition to `COMPILER_DISTRIBUTIONS`."""
    compiler_dependencies: tuple[str, ...] = ()
    """Dependencies of those distributions that influence what the backend writes."""
    schemes: tuple[Scheme, ...] = ("w8a8",)
    """INT8 schemes that the backend can compile."""
    saturating_inputs: tuple[Literal["uint8", "int8"], ...] = ()
    """Types of layer inputs for which its INT8 kernels on x86 without VNNI add two products in 16 bits."""
    has_int8_on_arm: bool = True
    """Whether most layers of an INT8 model run in integer kernels on Arm."""
    bytes_per_channel: int = 4
    """Bytes that a model file has for each output channel of INT8 weights, by default those of a float32 scale."""
    lowerings: tuple[str, ...] = ()
    """Names of the lowerings in its folder, which recipes enable."""
    session_options: tuple[str, ...] = ()
    """Options in a manifest's `session` that the engine accepts."""
    unused_files: tuple[str, ...] = ()
    """Glob patterns, relative to site-packages, of files that no model needs. Device set-up removes them."""

    @property
    def extra(self) -> str:
        """Extra in pyproject.toml that installs the runtime."""
        return self.name

    @property
    def requirement(self) -> str:
        """Requirement that pip installs on a device, the same as in the extra in pyproject.toml."""
        return f"{self.distributions[0]}>={self.oldest_version},<{self.excluded_version}"

    def wheels_on(self, machine: str) -> Wheels | None:
        """The platforms of the first distribution on one kind of processor, or None if it has no wheels there."""
        return next((wheels for wheels in self.wheels if wheels.machine == machine), None)

    @property
    def engine_module(self) -> str:
        """Module that contains `Engine`."""
        return f"edgekit.runtime.{self.name}.engine"

    @property
    def backend_module(self) -> str:
        """Module that contains `Backend`."""
        return f"edgekit.runtime.{self.name}.backend"

    @property
    def lowering_module(self) -> str:
        """Module that contains `LOWERING`, unless the runtime needs none."""
        return f"edgekit.runtime.{self.name}.lowering"

    @property
    def profiler_module(self) -> str:
        """Module that contains `profile`."""
        return f"edgekit.runtime.{self.name}.profiler"

    @staticmethod
    def find(name: str) -> "Runtime":
        """The runtime with this name; UsageError with the valid names if it doesn't exist."""
        if name in RUNTIMES:
            return RUNTIMES[name]
        fix = as_sentences(did_you_mean(name, RUNTIMES), "Use --target NAME")
        raise UsageError(f"unknown target '{name}'", valid=", ".join(RUNTIMES), fix=fix)

    @staticmethod
    def called(name: str) -> "Runtime":
        """The runtime with this name or alias; UsageError with the valid names if it doesn't exist."""
        return next((runtime for runtime in RUNTIMES.values() if name in runtime.aliases), None) or Runtime.find(name)

    @staticmethod
    def of_suffix(suffix: str) -> "Runtime | None":
        """The runtime whose model files have this suffix, or None."""
        return next((runtime for runtime in RUNTIMES.values() if runtime.model_suffix == suffix), None)


_rows: dict[str, Runtime] = {}
RUNTIMES: Mapping[str, Runtime] = MappingProxyType(_rows)
"""Every registered runtime by name, in the order in which outputs list them."""


def register(runtime: Runtime) -> None:
    """Add a row to the table; ValueError if another runtime has the same name or model suffix."""
    if runtime.name in _rows:
        raise ValueError(f"a runtime named '{runtime.name}' is registered already")
    if other := Runtime.of_suffix(runtime.model_suffix):
        raise ValueError(f"'{other.name}' is registered already for model files that end in {runtime.model_suffix}")
    _rows[runtime.name] = runtime


def unregister(name: str) -> None:
    """Remove a row from the table; KeyError if no runtime has this name."""
    del _rows[name]


# Where wheels exist was looked up in November 2026 for the newest ones within each range, with
#   pip download --no-deps --only-binary=:all: --platform manylinux_2_GLIBC_MACHINE --python-version VERSION PACKAGE
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
CI = ("Python 3.11",)
RASPBERRY_PIS = ("Debian 12 on an emulated Raspberry Pi 5", "Debian 13 on an emulated Raspberry Pi 4")

register(
    Runtime(
        name="openvino",
        title="OpenVINO",
        model_suffix=".xml",
        companion_suffixes=(".bin",),
        import_names=("openvino",),
        distributions=("openvino",),
        oldest_version="2026.4",
        oldest_loading_version="2024.0",
        excluded_version="2026.5",
        wheels=(
            Wheels(machine="x86_64", pythons=PYTHONS, glibc="2.28", tested=CI),
            Wheels(machine="aarch64", pythons=PYTHONS, glibc="2.35", tested=RASPBERRY_PIS),
        ),
        compiler_distributions=("openvino",),
        schemes=("w8a8", "w8"),
        saturating_inputs=("uint8", "int8"),  # its kernels shift int8 to uint8
        has_int8_on_arm=False,
        lowerings=("int8-attention", "native-float"),
        session_options=("inference_precision", "dynamic_quantization_group_size"),
    )
)
register(
    Runtime(
        name="onnx",
        title="ONNX Runtime",
        aliases=("onnxruntime", "ort"),
        model_suffix=".onnx",
        companion_suffixes=(".onnx.data",),
        # A protobuf can't exceed 2 GiB, and the graph takes some of that.
        file_limit=FileLimit(2_000_000_000, "a protobuf", external_data=True),
        import_names=("onnxruntime",),
        distributions=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        oldest_version="1.20",
        oldest_loading_version="1.18.0",
        excluded_version="2",
        wheels=(
            Wheels(machine="x86_64", pythons=PYTHONS, glibc="2.28", tested=CI),
            Wheels(machine="aarch64", pythons=PYTHONS, glibc="2.28", tested=RASPBERRY_PIS),
        ),
        compiler_distributions=("onnx", "onnxscript"),
        compiler_dependencies=("onnx-ir", "protobuf", "ml_dtypes"),
        schemes=("w8a8", "w8"),
        saturating_inputs=("uint8",),
        lowerings=("int8-hard-swish", "int8-silu", "int8-gates"),
        session_options=("disabled_optimizers",),
    )
)
register(
    Runtime(
        name="tflite",
        title="LiteRT",
        aliases=("litert",),
        model_suffix=".tflite",
        # Offsets in the file are signed 32-bit numbers.
        file_limit=FileLimit(2**31, "a TFLite file"),
        import_names=("ai_edge_litert.interpreter", "tflite_runtime.interpreter"),
        distributions=("ai-edge-litert", "tflite-runtime"),
        oldest_version="2.0",
        oldest_loading_version="1.0.0",
        excluded_version="3",
        wheels=(
            # Its own wheels need 2.27; those of NumPy and Pillow, which every runtime needs, 2.28.
            Wheels(machine="x86_64", pythons=PYTHONS, glibc="2.28", tested=CI),
            Wheels(machine="aarch64", pythons=PYTHONS, glibc="2.28", tested=RASPBERRY_PIS),
        ),
        compiler_distributions=("ai-edge-litert", "litert-torch", "flatbuffers"),
        compiler_dependencies=("litert-converter", "jax", "jaxlib"),
        # Not w8: the converter expands INT8 weights back to float where activations are float.
        schemes=("w8a8",),
        bytes_per_channel=24,  # an int64 zero point with the scale, and both again for the bias
        lowerings=("int8-gelu", "int8-hard-swish", "int8-silu", "int8-mish", "int8-gates"),
        session_options=("inference_precision",),
        # GPU accelerators: 17 MB of 124 MB, which nothing here loads.
        unused_files=("ai_edge_litert/libLiteRt*Accelerator.so",),
    )
)


SIDE_BY_SIDE_UP_TO = 50_000_000
"""Largest network that runs several images side by side. The layers of larger ones keep all cores busy."""
BUILT_APART_FROM = 50_000_000
"""Smallest network whose bundles are built in separate processes, with its weights in mapped files."""
CALIBRATED_ONCE_BELOW = 50_000_000
"""Networks of fewer parameters are calibrated once for all runtimes, which holds their weights three times. The
processes that build the bundles of larger ones hold them once."""
ROUNDED_TOGETHER_UP_TO = 150_000_000
"""Largest network whose layers are rounded together: by "fit", or by GPTQ in groups that share a pass over the images.
Above it, "fit" needs gigabytes, and GPTQ rounds one layer at a time."""
EIGHT_RANDOM_IMAGES_UP_TO = 1_000_000_000
"""Largest network with random weights that sees 8 random images, whose values take a GiB in addition to the weights.
Larger ones see 2."""


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
        elif f.default is f.default_factory is MISSING:
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
    """Convert `value` to `kind`: str, bool, int, float, Literal, a tuple of str, a table, or one of these or None."""
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]  # TOML has no null, so a key that is present isn't None
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            raise ProfileError(f"{where} is {_show(value)}", valid="a table")
        return {key: _convert(item, get_args(kind)[1], f"{where}.{key}", choices) for key, item in value.items()}
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

    @staticmethod
    def listed() -> tuple[str, ...]:
        """Names of the shipped device classes, sorted."""
        return shipped_names("targets")

    @staticmethod
    def load(name_or_path: str | Path) -> "DeviceClass":
        """Load the device class with this name or in this file; ProfileError if it doesn't exist or isn't valid."""
        where, table = read_table("targets", name_or_path, "device class")
        return build(DeviceClass, table, where)

    @staticmethod
    def shipped(name: str) -> "DeviceClass":
        """Load the shipped device class with this name; ProfileError for a path or an unknown name.

        A device's class must be a shipped one, because the copy of edgekit on the device has no others.
        """
        if name not in DeviceClass.listed():
            raise unknown(name, DeviceClass.listed(), "device class")
        return DeviceClass.load(name)

    @staticmethod
    def name_for(board: str | None, features: Collection[str]) -> str | None:
        """Name of the class that matches a machine's board or, without a board, its CPU features; None if none does."""
        classes = [DeviceClass.load(name) for name in DeviceClass.listed()]
        if board:
            return next((c.name for c in classes if any(fnmatchcase(board, pattern) for pattern in c.boards)), None)
        fits = [c for c in classes if not c.boards and set(c.instruction_set) <= set(features)]
        # A later level of an instruction set contains the earlier ones, so the fastest class that fits is right.
        return max(fits, key=lambda c: c.int8_macs_per_cycle).name if fits else None

    @staticmethod
    def of_host(root: Path = Path("/")) -> str | None:
        """Name of this machine's class; None if no class matches. `root` is the folder that contains proc and sys."""
        model = root / "sys/firmware/devicetree/base/model"
        board = model.read_text(errors="replace").strip("\0 \n") if model.is_file() else None
        return DeviceClass.name_for(board, cpu_features(root))


def cpu_features(root: Path = Path("/")) -> list[str]:
    """CPU features of this machine, as in /proc/cpuinfo; none if it has no such file. `root` contains proc."""
    cpuinfo = root / "proc/cpuinfo"
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return flags.partition(":")[2].split()
