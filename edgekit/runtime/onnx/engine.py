"""ONNX Runtime on the CPU, and ONNX models as graphs, read without the onnx package.

`edgekit inspect` profiles ONNX files of any origin, also on devices that have only numpy and ONNX Runtime. It gives no
access to the nodes of a loaded model, but depends on protobuf, which reads them from the file.
"""

import math
import mmap
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtime import engine
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.engine import Infer, check_shapes, import_runtime, package_version

FLOAT, INT8 = 1, 3
LOCATION = "location"
"""Key of the entry of a tensor's external data that names the file."""
REARRANGING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operations that may stand between DequantizeLinear and the layer that reads its values."""
_MESSAGES = {
    "Model": "7 Graph graph, 25 Function* functions",
    "Function": "7 Node* node, 11 Attribute* attribute_proto",
    "Graph": "1 Node* node, 5 Tensor* initializer, 15 Sparse* sparse_initializer",
    "Node": "1 string* input, 2 string* output, 3 string name, 4 string op_type, 5 Attribute* attribute",
    "Attribute": "1 string name, 3 int64 i, 5 Tensor t, 6 Graph g, 10 Tensor* tensors, 11 Graph* graphs, "
    "22 Sparse sparse_tensor, 23 Sparse* sparse_tensors",
    "Sparse": "1 Tensor values, 2 Tensor indices",
    "Tensor": "1 int64* dims, 2 int32 data_type, 4 float* float_data, 5 int32* int32_data, 8 string name, "
    "9 bytes raw_data, 13 Entry* external_data",
    "Entry": "1 string key, 2 string value",
}
"""The fields of onnx.proto that are read, by message: number, type with an asterisk for a repeated field, and name."""


class OnnxGraph:
    """The nodes and constants of a model by the names of their values."""

    def __init__(self, model: Any) -> None:
        """Index an `onnx.ModelProto` or what `read_onnx` reads. Optional values that a node leaves out are named ""."""
        self.nodes = model.graph.node
        self.named = {node.name: node for node in self.nodes}
        self.places = {node.name: place for place, node in enumerate(self.nodes)}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in filter(None, node.input):
                self.readers[name].append(node)

    def edges(self) -> list[tuple[int, ...]]:
        """Positions of the nodes that make the inputs of each node."""
        made = {name: position for position, node in enumerate(self.nodes) for name in node.output if name}
        return [tuple(made[name] for name in node.input if name in made) for node in self.nodes]

    def made_by(self, name: str, *kinds: str) -> Any:
        """The node that makes a value, if it is of one of these kinds; otherwise None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def behind(self, name: str, *kinds: str) -> str:
        """The value from which nodes of these kinds make a value; the value itself if none does."""
        while (node := self.made_by(name, *kinds)) is not None:
            name = node.input[0]
        return name

    def after(self, name: str, *kinds: str) -> Iterator[Any]:
        """The nodes that read a value, or what nodes of these kinds make of it."""
        for reader in self.readers[name]:
            yield from self.after(reader.output[0], *kinds) if reader.op_type in kinds else [reader]

    def dequantizer(self, name: str, *passed: str) -> Any:
        """The DequantizeLinear that makes a value, before nodes of the kinds in `passed`; otherwise None."""
        return self.made_by(self.behind(name, *passed), "DequantizeLinear")

    def weight_dequantizer(self, node: Any) -> tuple[Any, bool]:
        """The DequantizeLinear of a layer's weights, or None, and whether a Transpose follows it."""
        transpose = self.made_by(node.input[1], "Transpose")
        return self.dequantizer(node.input[1] if transpose is None else transpose.input[0]), transpose is not None

    def origin(self, name: str, *kinds: str) -> Any:
        """The node that became one in the optimized graph, such as "fc1/MatMulAddFusion"; None if there is none.

        A convolution in the channel-blocked layout has the name of its value, or of an activation's that it applies.
        Then it is the node of one of these kinds that makes the value.
        """
        name = re.sub(r"(_token_\d+|_nchwc)+$", "", name)
        maker = self.makers.get(name)
        while maker is not None and maker.op_type not in kinds:
            maker = next((self.makers[value] for value in maker.input if value in self.makers), None)
        while name not in self.named and "/" in name:
            name = name.rpartition("/")[0]
        return self.named.get(name, maker)

    def is_sum(self, node: Any) -> bool:
        """Whether a product is really a sum, because one of its operands is a constant of ones."""
        return any(name in self.tensors and _is_ones(self.tensors[name]) for name in node.input[:2])

    def quantized(self, node: Any) -> tuple[bool, bool]:
        """Whether the first and second operand come from DequantizeLinear, looking through changes of layout."""
        first, second = (self.dequantizer(name, *REARRANGING) is not None for name in (*node.input, "", "")[:2])
        return first, second


def read_onnx(path: Path) -> OnnxGraph:
    """Read a model file, without its external data; raises ValueError if it isn't an ONNX file."""
    with _mapped(path) as content:
        return OnnxGraph(_parsed(content))


def external_files(path: Path) -> frozenset[str]:
    """Names of the files from which a runtime would read tensors of a model; ValueError if it isn't an ONNX file."""
    with _mapped(path) as content:
        return frozenset(_locations(_parsed(content))) if content.find(LOCATION.encode()) >= 0 else frozenset()


def int8_values(tensor: Any, folder: Path) -> NDArray[np.int8]:
    """The values of an INT8 tensor of a file in this folder, which may have external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if LOCATION in entries:
        size, offset = math.prod(tensor.dims), int(entries.get("offset", 0))
        values = np.fromfile(folder / entries[LOCATION], np.int8, size, offset=offset)
    else:
        values = np.frombuffer(tensor.raw_data, np.int8) if tensor.raw_data else np.array(tensor.int32_data, np.int8)
    return values.reshape(tensor.dims)


def _locations(message: Any) -> Iterator[str]:
    """The files that a message and those inside it name."""
    if message.DESCRIPTOR.name == "Entry" and message.key == LOCATION:
        yield message.value
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _locations(part)


def _is_ones(tensor: Any) -> bool:
    if tensor.data_type != FLOAT:
        return False
    values = np.frombuffer(tensor.raw_data, "<f4") if tensor.raw_data else np.array(tensor.float_data)
    return values.size > 0 and bool((values == 1).all())


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _parsed(content: mmap.mmap) -> Any:
    model = _model_message()()
    try:
        with memoryview(content) as view:
            model.ParseFromString(view)
    except Exception as error:  # protobuf's own class, which isn't a ValueError
        raise ValueError(f"it is not an ONNX file: {error}") from error
    return model


@cache
def _model_message() -> Any:
    """The class of `_MESSAGES["Model"]`."""
    descriptor, pools, factory = (
        import_module(f"google.protobuf.{name}") for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    file = descriptor.FileDescriptorProto(name="edgekit.proto", package="edgekit")
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for number, kind, name in (field.split() for field in fields.split(", ")):
            field = declared.field.add(name=name, number=int(number), label=3 if kind.endswith("*") else 1)
            if (base := kind.rstrip("*")) in _MESSAGES:
                field.type_name = f".edgekit.{base}"
            else:
                field.type = getattr(descriptor.FieldDescriptorProto, f"TYPE_{base.upper()}")
    pool = pools.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("edgekit.Model"))


class Engine(engine.Engine):
    """An inference session.

    The manifest's session option "disabled_optimizers" lists graph optimizers of ONNX Runtime to switch off.
    """

    package = "onnxruntime"
    concurrent = True

    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        ort = import_runtime("onnx")
        self.version = package_version(ort, self.package, manifest)
        if unlisted := external_files(model) - manifest.files.keys():
            raise BundleError(f"key 'files' doesn't list '{min(unlisted)}', which has tensors of '{model.name}'")
        options = session_options(ort, threads or 0)
        # Idle threads would keep spinning for milliseconds, which heats the processor and takes a core from the app.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=_disabled(manifest)
        )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_shapes(manifest, [value.shape for value in inputs], [value.shape for value in outputs])
        image, logits = inputs[0].name, [outputs[0].name]

        def infer(x: NDArray[Any]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = session.run(logits, {image: x})[0]
            return result

        return infer


def session_options(ort: Any, threads: int) -> Any:
    """Options of a session that optimizes its graph and prints nothing but errors."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _disabled(manifest: Manifest) -> list[str]:
    names = manifest.session.get("disabled_optimizers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleError(f"key 'session.disabled_optimizers' is {names!r}", valid="a list of names")
    return names
