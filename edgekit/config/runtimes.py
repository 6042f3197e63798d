"""The table of runtimes: everything that other rooms know about a runtime is an attribute of its row."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from edgekit.config.precisions import Scheme
from edgekit.errors import UsageError

COMPILER_DISTRIBUTIONS = ("torch", "torchao", "nncf", "timm")
"""What every backend compiles with; a runtime's row has what its own backend needs besides."""


@dataclass(frozen=True)
class FileLimit:
    """The size that a model file has to stay below, and whether larger weights can go into another file."""

    size_bytes: int
    format: str
    """The kind of file, as messages name it: "a TFLite file"."""
    external_data: bool = False
    """The backend writes larger weights into a file beside the model; without it a larger model can't be compiled."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime that edgekit compiles for. On the command line and in JSON it is called a target.

    Its folder is edgekit/runtime/NAME. `engine` there is what the SDK runs and needs numpy and the runtime alone, as
    `profiler` does, which tells the layers that ran in integer kernels; `backend` compiles and needs torch. They are
    imported when they are needed.
    """

    name: str
    """The name of the folder, of the extra in pyproject.toml, and of the table in a recipe."""
    title: str
    """The name that the runtime's own project uses."""
    model_suffix: str
    """The suffix of a model file. No other runtime has it."""
    companion_suffixes: tuple[str, ...] = ()
    """Suffixes, in place of `model_suffix`, of files that a model file may need beside it."""
    file_limit: FileLimit | None = None
    """The limit of the model file's format, or None where no model comes near it."""
    import_names: tuple[str, ...]
    """Modules of which the first that is installed runs the models."""
    distributions: tuple[str, ...]
    """Distributions that bring such a module; edgekit installs the first, the others are alternatives to it."""
    oldest_version: str
    """The oldest version of the first distribution that works."""
    excluded_version: str
    """The first version of it that edgekit does not accept."""
    compiler_distributions: tuple[str, ...]
    """Distributions that the backend imports, beside `COMPILER_DISTRIBUTIONS`."""
    compiler_dependencies: tuple[str, ...] = ()
    """Distributions that those bring, as far as they shape what the backend writes."""
    schemes: tuple[Scheme, ...] = ("w8a8",)
    """INT8 schemes that the backend can compile."""
    session_options: tuple[str, ...] = ()
    """Options of a manifest's `session` that the engine takes."""
    unused_files: tuple[str, ...] = ()
    """Glob patterns, relative to site-packages, of files in the distribution that no model needs: devices drop them."""

    @property
    def extra(self) -> str:
        """The extra in pyproject.toml that installs it."""
        return self.name

    @property
    def requirement(self) -> str:
        """What pip installs for it on a device, which is what the extra in pyproject.toml says."""
        return f"{self.distributions[0]}>={self.oldest_version},<{self.excluded_version}"

    @property
    def engine_module(self) -> str:
        """The module with `Engine`."""
        return f"edgekit.runtime.{self.name}.engine"

    @property
    def backend_module(self) -> str:
        """The module with `Backend`."""
        return f"edgekit.runtime.{self.name}.backend"

    @property
    def profiler_module(self) -> str:
        """The module with `Profiler`."""
        return f"edgekit.runtime.{self.name}.profiler"


_rows: dict[str, Runtime] = {}
RUNTIMES: Mapping[str, Runtime] = MappingProxyType(_rows)
"""Every registered runtime by its name, in the order in which outputs list them."""


def register(runtime: Runtime) -> None:
    """Add a row to the table; ValueError if another runtime has its name or the suffix of its model files."""
    if runtime.name in _rows:
        raise ValueError(f"a runtime named '{runtime.name}' is registered already")
    if other := runtime_of_suffix(runtime.model_suffix):
        raise ValueError(f"'{other.name}' is registered already for model files that end in {runtime.model_suffix}")
    _rows[runtime.name] = runtime


def unregister(name: str) -> None:
    """Remove a row from the table; KeyError if there is none of this name."""
    del _rows[name]


def find_runtime(name: str) -> Runtime:
    """The runtime of this name, or a UsageError with the choices and the nearest of them."""
    if name in RUNTIMES:
        return RUNTIMES[name]
    near = get_close_matches(name, RUNTIMES, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"unknown target '{name}': valid targets are {', '.join(RUNTIMES)}.{hint} Use --target NAME.")


def runtime_of_suffix(suffix: str) -> Runtime | None:
    """The runtime whose model files have this suffix, or None."""
    return next((runtime for runtime in RUNTIMES.values() if runtime.model_suffix == suffix), None)


register(
    Runtime(
        name="openvino",
        title="OpenVINO",
        model_suffix=".xml",
        companion_suffixes=(".bin",),
        import_names=("openvino",),
        distributions=("openvino",),
        oldest_version="2026.4",
        excluded_version="2026.5",
        compiler_distributions=("openvino",),
        schemes=("w8a8", "w8"),
        session_options=("inference_precision",),
    )
)
register(
    Runtime(
        name="onnx",
        title="ONNX Runtime",
        model_suffix=".onnx",
        companion_suffixes=(".onnx.data",),
        # A protobuf holds 2 GiB; the graph needs some of it.
        file_limit=FileLimit(2_000_000_000, "a protobuf", external_data=True),
        import_names=("onnxruntime",),
        distributions=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        oldest_version="1.20",
        excluded_version="2",
        compiler_distributions=("onnx", "onnxscript"),
        compiler_dependencies=("onnx-ir", "protobuf", "ml_dtypes"),
        schemes=("w8a8", "w8"),
        session_options=("disabled_optimizers",),
    )
)
register(
    Runtime(
        name="tflite",
        title="LiteRT",
        model_suffix=".tflite",
        # Offsets in the file are signed 32-bit numbers.
        file_limit=FileLimit(2**31, "a TFLite file"),
        import_names=("ai_edge_litert.interpreter", "tflite_runtime.interpreter"),
        distributions=("ai-edge-litert", "tflite-runtime"),
        oldest_version="2.0",
        excluded_version="3",
        compiler_distributions=("ai-edge-litert", "litert-torch", "flatbuffers"),
        compiler_dependencies=("litert-converter", "jax", "jaxlib"),
        # Not w8: where inputs are float, the converter turns int8 weights back into float.
        schemes=("w8a8",),
        # Accelerators for graphics processors: 17 MB of 124 that nothing here loads.
        unused_files=("ai_edge_litert/libLiteRt*Accelerator.so",),
    )
)
