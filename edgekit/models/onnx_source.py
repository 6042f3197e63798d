"""Models in an ONNX file, such as `my_model.onnx`.

A graph becomes a torch module of ATen operations, with a layer for each convolution and matrix product. onnx2pytorch
converts the operators. Its module computes with tensors where torch has plain numbers, such as shapes, so torch.export
can't trace it. It runs once on zeros, and everything that doesn't depend on the image becomes a constant.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.nn import functional as F

from edgekit.compiler.torch_compat import trace_with_values
from edgekit.errors import EdgekitError, ModelError, UsageError
from edgekit.images.preprocess import CHANNELS
from edgekit.models.description import stored_names
from edgekit.models.network import LoadedModule, ModelSource, state_sha256
from edgekit.models.options import ONNX_SUFFIX, ModelOptions
from edgekit.models.transforms import parse_size
from edgekit.runtime.engine import import_runtime
from edgekit.support.files import digest, file_sha256
from edgekit.support.libraries import first_line, import_needed, quiet

A = torch.ops.aten
_DEFAULTS: tuple[Any, ...] = (None, None, [1, 1], [0, 0], [1, 1], 1)
"""Values of the arguments of a convolution after its input, if they are left out."""


class OneByOne(nn.Module):
    """A network whose graph computes a single image, for any number of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[0] == 1:
            logits: Tensor = self.model(images)
            return logits
        return torch.cat([self.model(image[None]) for image in images])


@torch.no_grad()
def import_graph(model: onnx.ModelProto, example: Tensor) -> nn.Module:
    """The module of a model with one input, float32 [1,C,H,W] like `example`. The model is changed.

    An unsupported operator may raise any exception.
    """
    _name_values(model)
    module = convert(model)
    names = {parameter: name for name, layer in module.named_modules() for parameter in layer.parameters(False)}
    graph = trace_with_values(module, example)
    constants = _fold_constants(graph, example)
    for node in list(graph.graph.nodes):
        if node.target is A.max_pool2d_with_indices.default:
            _forget_indices(graph, node)
        elif node.target is A.true_divide.Tensor:
            node.target = A.div.Tensor
        elif node.target in (A.conv2d.default, A.linear.default):
            _make_layer(graph, node, constants, names)
    graph.graph.eliminate_dead_code()
    # A graph of `make_fx` can't be pickled. This one can, and the new module has only the layers that it uses.
    plain = Graph()
    plain.output(plain.graph_copy(graph.graph, {}))
    return OneByOne(GraphModule(graph, plain))


def _name_values(model: onnx.ModelProto) -> None:
    """Give every value a name that can be an attribute; outputs of layers get the names of their weights."""
    graph = model.graph
    names: dict[str, str] = {"": ""}
    for node in graph.node:
        for attribute in [each for each in node.attribute if each.name == "training_mode" and each.i == 0]:
            node.attribute.remove(attribute)  # onnx2pytorch doesn't know it
        weight = node.input[1] if node.op_type in ("Conv", "Gemm") and len(node.input) > 1 else ""
        if weight.endswith(".weight"):
            _add_name(names, node.output[0], weight.removesuffix(".weight"))
    for values in (graph.input, graph.output, graph.initializer, graph.value_info):
        for value in values:
            value.name = _add_name(names, value.name)
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = _add_name(names, name)


def _add_name(names: dict[str, str], value: str, wanted: str = "") -> str:
    if value not in names:
        name = re.sub(r"\W+", "_", wanted or value.removesuffix("_output_0")).strip("_") or "value"
        taken = set(names.values())
        names[value] = next(free for free in _with_numbers(name) if free not in taken)
    return names[value]


def _with_numbers(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(1))


def _fold_constants(graph: GraphModule, example: Tensor) -> dict[Node, Tensor]:
    """Compute what doesn't depend on the input, and make each such value that the rest needs one attribute."""
    variable: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or any(source in variable for source in node.all_input_nodes):
            variable.add(node)
    values: dict[Node, Any] = {}

    class Constants(Interpreter):
        def run_node(self, n: Node) -> Any:
            if n not in variable:
                values[n] = super().run_node(n)
            return values.get(n)

    Constants(graph).run(example)
    constants: dict[Node, Tensor] = {}
    for node, value in list(values.items()):
        if isinstance(value, Tensor) and any(user in variable for user in node.users):
            name = f"constant_{len(constants)}"
            graph.register_buffer(name, value.detach())
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            node.replace_all_uses_with(constant)
            constants[constant] = value
    graph.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return constants


def _forget_indices(graph: GraphModule, pool: Node) -> None:
    (item,) = pool.users
    assert item.target is operator.getitem
    with graph.graph.inserting_before(pool):
        item.replace_all_uses_with(graph.graph.call_function(A.max_pool2d.default, pool.args))


def _make_layer(graph: GraphModule, node: Node, constants: dict[Node, Tensor], names: dict[Any, str]) -> None:
    """Replace an operation by a module, whose name reports show, and whose weights `edgekit plan` counts."""
    x, *rest = node.args
    arguments: list[Any] = [constants.get(value, value) if isinstance(value, Node) else value for value in rest]
    weight, bias, stride, padding, dilation, groups = [*arguments, *_DEFAULTS[len(arguments) :]]
    if not isinstance(weight, Tensor) or isinstance(bias, Node):
        return
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    layer: nn.Conv2d | nn.Linear
    if node.target is A.linear.default:
        layer = nn.Linear(weight.shape[1], weight.shape[0], **options)
    else:
        options |= {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
        options["kernel_size"] = tuple(weight.shape[2:])
        layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], **options)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    wanted = names.get(weight, f"layer_{node}").partition("_")[2]
    name = next(free for free in _with_numbers(wanted) if not hasattr(graph, free))
    graph.add_module(name, layer)
    with graph.graph.inserting_before(node):
        node.replace_all_uses_with(graph.graph.call_module(name, (x,)))


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_ANY_SIZE = 1 << 40
EXPORT = "Export the network again, with an input float32 [1,C,H,W] and logits [1,N] as its only output"

FROM_SOURCE = "Deploy the network from its source, for example as module:factory"


@dataclass(frozen=True)
class OnnxReference:
    """The same file in ONNX Runtime, with which the imported module is compared."""

    path: str
    softmax: bool
    """Whether the file's output is the softmax of the logits."""

    def difference(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
        """Largest difference between these logits and the file's outputs, as a fraction of the largest output."""
        session = import_runtime("onnx").InferenceSession(self.path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        expected = np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
        actual = torch.softmax(torch.from_numpy(logits), 1).numpy() if self.softmax else logits
        return float(np.abs(actual - expected).max() / np.abs(expected).max())


class OnnxSource(ModelSource):
    """Networks in ONNX files, whose names end in .onnx."""

    name: ClassVar[str] = "onnx"

    def recognizes(self, options: ModelOptions) -> bool:
        return options.name.lower().endswith(ONNX_SUFFIX)

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        """The file's input size. Only a file with dynamic sides needs `--imgsz`."""
        requested = parse_size(options.imgsz)
        _, height, width = _input_shape(_read(options.name, weights=False), options.name)
        if height and width:
            if requested not in (None, (height, width)):
                raise UsageError(f"--imgsz is {options.imgsz}", valid=f"{height}x{width}, the size in '{options.name}'")
            return height, width
        if requested is None:
            raise UsageError(f"'{options.name}' takes images of any size", fix="Choose a size with `--imgsz`")
        return requested

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Import the file as a torch module that computes the logits of images [N,C,H,W].

        A softmax at the end is left out. Nothing in the file is executed as code. Raises ModelError for a file that is
        not a classifier or has an unsupported operator, and UsageError for options that don't apply.
        """
        for option, value in (("--weights", options.weights), ("--model-args", options.model_args)):
            if value:
                raise UsageError(f"{option} doesn't apply to '{options.name}', which has its own weights")
        model, size = _read(options.name), self.input_size(options)
        channels, _, _ = _input_shape(model, options.name)
        names = stored_names({entry.key: entry.value for entry in model.metadata_props})
        model = _simplify(model, options.name)
        softmax = _remove_softmax(model)
        try:
            with quiet():
                module = import_graph(model, torch.zeros(1, channels, *(size or ())))
        except EdgekitError:
            raise
        except Exception as error:  # onnx2pytorch raises anything for an operator that it doesn't support
            raise ModelError(
                f"onnx2pytorch can't convert '{options.name}' ({type(error).__name__}: {first_line(error)})",
                fix=FROM_SOURCE,
            ) from error
        # The weights alone don't describe the graph, and the file alone may not contain them.
        hashes = digest(file_sha256(Path(options.name)), state_sha256(module))
        reference = OnnxReference(options.name, softmax)
        return LoadedModule(module, options.short_name, hashes, reference=reference, class_names=names)

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Import the file on the CPU, and move the module. Unlike other sources, this reads the weights."""
        with torch.device("cpu"):
            return self.load(options, 0).module.to("meta")


def _read(name: str, weights: bool = True) -> onnx.ModelProto:
    try:
        return onnx.load(name, load_external_data=weights)
    except FileNotFoundError as error:
        raise ModelError(f"'{error.filename or name}' doesn't exist", fix="Check the path") from None
    except Exception as error:  # protobuf's errors, and onnx's for external data outside the folder
        raise ModelError(f"can't read '{name}' as ONNX: {first_line(error)}", fix=EXPORT) from error


def _input_shape(model: onnx.ModelProto, name: str) -> tuple[int, int, int]:
    """(channels, height, width) of the only input; 0 for a side that the file leaves open. Raises ModelError."""
    inputs = _inputs(model)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        counts = f"{len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise ModelError(f"'{name}' has {counts}", valid="one input and one output", fix=EXPORT)
    kind = inputs[0].type.tensor_type
    shape = [side.dim_value for side in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(shape) != 4 or shape[1] not in CHANNELS or shape[0] > 1:
        actual = [side.dim_value or side.dim_param or "?" for side in kind.shape.dim]
        element = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise ModelError(
            f"the input of '{name}' is {element} {actual}",
            valid="float [N,C,H,W] with a batch of 1 or of any size, and 3 channels or 1",
            fix=EXPORT,
        )
    return shape[1], shape[2], shape[3]


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs. Old files list the weights among them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _simplify(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Fix the batch at 1, compute what is constant then, and check the operators that remain.

    onnx2pytorch expects weights to be initializers, not results of operators. It also calls the function of torch that
    is named like an operator that it doesn't know, so only ONNX's own operators may pass.
    """
    (image,) = _inputs(model)
    image.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        with quiet():
            model = optimizer.optimize(model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    except Exception as error:  # of an invalid graph
        raise ModelError(f"'{name}' is not a valid ONNX graph: {first_line(error)}", fix=EXPORT) from error
    unknown = sorted({node.op_type for node in model.graph.node if not _is_plain(node)})
    if unknown:
        raise ModelError(
            f"'{name}' has operators that edgekit can't import: {', '.join(unknown)}",
            valid="ONNX's own operators without control flow",
            fix=FROM_SOURCE,
        )
    kinds = sorted({node.op_type for node in model.graph.node})
    quantized = [kind for kind in kinds if "uantize" in kind or kind.startswith("QLinear")]
    if quantized:
        raise ModelError(
            f"'{name}' is quantized already: it has {', '.join(quantized)}",
            valid="a file in float",
            fix="Use the file from which it was made",
        )
    return model


def _remove_softmax(model: onnx.ModelProto) -> bool:
    """Remove a softmax at the end. Return whether there was one."""
    (output,) = model.graph.output
    last = next((node for node in model.graph.node if output.name in node.output), None)
    if last is None or last.op_type != "Softmax":
        return False
    model.graph.node.remove(last)
    output.name = last.input[0]
    return True


def _is_plain(node: onnx.NodeProto) -> bool:
    control_flow = any(attribute.type in _GRAPHS for attribute in node.attribute)
    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type) and not control_flow


def convert(model: onnx.ModelProto) -> nn.Module:
    """Turn a model into a module with the same inputs and outputs. The model is changed.

    Checked with onnx2pytorch 0.6.0. `ConvertModel` is public. Its LayerNormalization, Max and Min are not.
    Their three to nine operations become one of torch here, which edgekit's passes know. An unsupported operator may
    raise any exception.
    """
    library, operations = (import_needed(name, "onnx-models") for name in ("onnx2pytorch", "onnx2pytorch.operations"))
    module: nn.Module = library.ConvertModel(model).eval().requires_grad_(False)
    for child in module.modules():
        if isinstance(child, operations.LayerNorm):
            child.forward = partial(_layer_norm, child.axis, child.eps)
        elif isinstance(child, operations.Max | operations.Min):
            child.forward = partial(_reduce, torch.maximum if isinstance(child, operations.Max) else torch.minimum)
    return module


def _layer_norm(axis: int, eps: float, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor]:
    """LayerNormalization without its optional outputs, the mean and the inverse of the standard deviation."""
    return (F.layer_norm(x, x.shape[axis:], scale, bias, eps),)


def _reduce(operation: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> Tensor:
    return reduce(operation, inputs)
