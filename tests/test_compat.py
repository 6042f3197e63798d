"""Canaries: other projects' private interfaces that edgekit uses still exist and are still needed."""

import copy
import importlib.util
import inspect
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compat.telemetry import VARIABLE

COMPILES = """
import sys
from pathlib import Path
import edgekit.runtime
edgekit.runtime.engine.import_runtime("openvino")
import torch
import edgekit.compiler.calibrate
from edgekit.runtime.openvino.backend import Backend
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA
from edgekit.config.runtimes import DeviceClass
graph, arm = export_graph(torch.nn.Conv2d(3, 4, 3), [1, 3, 8, 8]), DeviceClass.load("raspberry-pi-5")
Backend().compile(graph, Path(sys.argv[1]), METADATA, arm)
"""


def run_alone(code: str, *arguments: str, home: Path) -> str:
    """Run code in a fresh process with `home` as its home, and return its stdout.

    The variables that CI sets are removed, because telemetry turns itself off there.
    """
    silent = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "XDG_CACHE_HOME", VARIABLE)
    env = {name: value for name, value in os.environ.items() if name not in silent}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, env=env | {"HOME": str(home)}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_importing_edgekit_leaves_telemetry_to_the_application(tmp_path: Path) -> None:
    code = "import edgekit, edgekit.runtime, sys; print('openvino_telemetry' in sys.modules)"
    assert run_alone(code, home=tmp_path) == "False"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import openvino_telemetry", "pass"])
def test_no_library_reports_the_use_of_edgekit(tmp_path: Path, first: str) -> None:
    """NNCF turns off its telemetry under pytest, so the test needs a separate process to see edgekit's effect.

    Before it sends anything, a telemetry client creates the folder `intel` with an ID in the home.
    """
    run_alone(f"{first}\n{COMPILES}", str(tmp_path), home=tmp_path)
    assert (tmp_path / "model.xml").exists()
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("library", ["openvino", pytest.param("nncf", marks=pytest.mark.slow)])
def test_hiding_telemetry_is_still_needed_and_enough(tmp_path: Path, library: str) -> None:
    """The real client would send data from here, so a fake one replaces it and records that it was created."""
    code = """
import sys, types
made = []
class Client:
    def __init__(self, *_, **__): made.append(True)
    def send_event(self, *_, **__): pass
names = ["openvino_telemetry", "openvino_telemetry.backend"]
package, backend = (types.ModuleType(name) for name in names)
package.Telemetry, backend.backend_ga4 = Client, None
sys.modules.update(zip(names, (package, backend)))
if sys.argv[2] == "hidden":
    __import__({"openvino": "edgekit.compat.openvino", "nncf": "edgekit.compiler.nncf_compat"}[sys.argv[1]])
else:
    __import__(sys.argv[1])
print(bool(made), sys.modules["openvino_telemetry"] is package)
"""
    assert run_alone(code, library, "bare", home=tmp_path) == "True True"
    assert run_alone(code, library, "hidden", home=tmp_path) == "False True"


@pytest.mark.parametrize("library", ["bare", "through edgekit"])
def test_onnx_runtime_keeps_an_id_of_this_user_unless_edgekit_imports_it(tmp_path: Path, library: str) -> None:
    """It writes the ID before it sends anything, which the address of the proxy prevents here."""
    imports = {"bare": "import onnxruntime", "through edgekit": "engine.import_runtime('onnx')"}[library]
    proxy = "os.environ['https_proxy'] = os.environ['HTTPS_PROXY'] = 'http://127.0.0.1:9'"
    code = f"import os; from edgekit.runtime import engine; {proxy}; {imports}; print({VARIABLE!r} in os.environ)"
    assert run_alone(code, home=tmp_path) == "False"
    assert (tmp_path / ".cache/Microsoft").exists() == (library == "bare")


REGISTRIES = """
from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
import edgekit.runtime.tflite.backend, edgekit.models
from edgekit.compat.litert_torch import PAD
print(PAD in rewriters)
"""


@pytest.mark.slow
def test_importing_edgekit_registers_nothing_with_other_libraries(tmp_path: Path) -> None:
    assert run_alone(REGISTRIES, home=tmp_path) == "False"


def test_litert_torch_has_no_rewriter_for_paddings_yet() -> None:
    """`register_rewriters` leaves a rewriter of the converter in place. Once there is one, edgekit's can be deleted."""
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters

    from edgekit.compat.litert_torch import PAD, pad_channels_last, register_rewriters

    register_rewriters()
    assert rewriters[PAD] is pad_channels_last
    before = dict(rewriters)
    register_rewriters()
    assert dict(rewriters) == before


def test_pads_of_an_image_become_those_of_its_channels_last_form() -> None:
    import torch
    from torch.nn.functional import pad

    from edgekit.compat.litert_torch import PAD, pad_channels_last

    graph = torch.fx.Graph()
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    for pads in ([1, 2], [1, 2, 3, 0], [1, 2, 3, 0, 0, 1]):
        node = graph.call_function(PAD, (graph.placeholder("image"), pads, 7.0))
        pad_channels_last(node)
        moved = pad(image.permute(0, 2, 3, 1), node.args[1], value=7.0)  # type: ignore[arg-type]
        assert torch.equal(moved.permute(0, 3, 1, 2), pad(image, pads, value=7.0))


def test_litert_torch_still_repeats_along_other_axes() -> None:
    """`register_rewriters` replaces its rewriter. Once the converter's is right, edgekit's can be deleted."""
    import torch
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_rewrite

    from edgekit.compat.litert_torch import REPEAT, register_rewriters, repeat_channels_last

    spec = importlib.util.spec_from_file_location("unchanged", str(layout_rewrite.__file__))
    assert spec
    assert spec.loader
    unchanged = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchanged)
    graph, image, repeats = torch.fx.Graph(), torch.arange(24.0).reshape(1, 2, 3, 4), [1, 2, 3, 4]
    node = graph.call_function(REPEAT, (graph.placeholder("image"), repeats))
    unchanged.rewriters[REPEAT](node)
    assert node.args[1] == repeats
    repeat_channels_last(node)
    moved = image.permute(0, 2, 3, 1).repeat(*node.args[1])  # type: ignore[misc]
    assert torch.equal(moved.permute(0, 3, 1, 2), image.repeat(*repeats))
    register_rewriters()
    assert layout_rewrite.rewriters[REPEAT] is repeat_channels_last


def test_litert_torch_still_gives_a_dq_the_layout_of_its_reader() -> None:
    """`keep_layout_marks` restores the DQ's own. Once the converter keeps it, edgekit's can be deleted."""
    import torch
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import utils
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.pass_body import OptimizeLayoutTransposesPass

    from edgekit.compat.litert_torch import insert_t_q_dq, keep_layout_marks
    from edgekit.compiler.layers import DEQUANTIZE

    keep_layout_marks()
    for insert, keeps in ((insert_t_q_dq, False), (OptimizeLayoutTransposesPass.insert_t_q_dq, True)):
        graph = torch.fx.Graph()
        dq = graph.call_function(DEQUANTIZE, (graph.placeholder("levels"), 0.1, 0, -128, 127, torch.int8))
        dq.meta["layout"] = "its own"
        reader = graph.call_function(torch.neg, (dq,))
        insert(OptimizeLayoutTransposesPass(), graph, dq, reader, utils.tensor_to_nchw, {"layout": "another"})
        assert (dq.meta["layout"] == "its own") == keeps


def test_the_interpreter_lists_operations_by_name(tiny_models: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from edgekit.runtime.tflite.profiler import operations

    listed = operations(Interpreter(model_path=str(tiny_models / "model.tflite")))
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {operation["op_name"] for operation in listed}
    assert all(len(operation["inputs"]) and len(operation["outputs"]) for operation in listed)


@pytest.mark.parametrize("arguments", [["one", "--no-such-option"], ["no-such-command"], ["one"]])
def test_typer_raises_the_usage_error(arguments: list[str]) -> None:
    import typer

    from edgekit.cli.compat import usage_error

    app = typer.Typer()
    app.command("one")(lambda value: None)
    app.command("two")(lambda: None)
    with pytest.raises(usage_error()) as caught:
        typer.main.get_command(app).main(args=arguments, standalone_mode=False)
    assert caught.value.format_message()
    assert callable(caught.value.show)


def test_typer_tells_which_command_was_meant() -> None:
    import typer

    from edgekit.cli.compat import command_path, options_of, subcommands, usage_error

    app, more = typer.Typer(), typer.Typer()
    more.command("a")(lambda: None)
    more.command("b")(lambda: None)
    app.add_typer(more, name="more")
    with pytest.raises(usage_error()) as caught:
        typer.main.get_command(app).main(args=["more"], prog_name="app", standalone_mode=False)
    assert (command_path(caught.value), subcommands(caught.value)) == ("app more", ("a", "b"))
    assert "--install-completion" not in options_of(caught.value)


def test_parameters_show_no_types_and_keep_what_was_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typer's own parameters, which `plain` stands beside, show types, and convert with pydantic."""
    import typer
    from typer.core import TyperCommand

    from edgekit.cli.compat import Argument, usage_error
    from edgekit.cli.compat import PlainOption as Option

    def own(
        files: list[Path],
        number: int = typer.Option(1, min=1, max=9),
        flag: bool = False,
        share: float = typer.Option(0.5, show_default="half"),
    ) -> None:
        pass

    monkeypatch.setenv("COLUMNS", "100")
    app = typer.Typer(add_completion=False)
    app.command("own")(own)
    typed: dict[str, Any] = {}
    plain = TyperCommand(
        "plain",
        callback=typed.update,
        params=[
            Argument("files", "FILE", "Files.", None, required=True, nargs=-1),
            Option("number", ("--number", "-n"), "N", "Settings", "A number.", default_in_words="1", min=1, max=9),
            Option("flag", ("--flag/--no-flag",), None, "Settings", "A flag."),
            Option("name", ("--name",), "NAME", "Settings", "A name.", default_in_words="required, mostly"),
        ],
    )
    shown = []
    for command in (typer.main.get_command(app), plain):
        command.main(args=["--help"], prog_name="app", standalone_mode=False)
        shown.append(" ".join(capsys.readouterr().out.split()))
    noise = ("<list[Path]>", "<int range>", "[1<=x<=9]", "<bool>", "default: (half)", "{files}")
    assert [text for text in noise if text in shown[0]] == list(noise), "typer shows less: do without these classes"
    own_part = shown[1].partition("--help")[0]
    assert [text for text in noise if text in own_part] == []
    for text in ("FILE...", "Settings", "[default: 1]", "[required, mostly]"):
        assert text in shown[1]
    plain.main(args=["a", "b", "-n", "ten", "--no-flag"], standalone_mode=False)
    assert typed == {"files": ("a", "b"), "number": "ten", "flag": False, "name": None}
    with pytest.raises(usage_error()):
        plain.main(args=[], standalone_mode=False)


def test_torch_operations_that_write_into_their_input() -> None:
    import torch

    from edgekit.compiler.torch_compat import out_of_place

    aten = torch.ops.aten
    assert out_of_place(aten.relu_.default) is aten.relu.default
    assert out_of_place(aten.add_.Tensor) is aten.add.Tensor
    assert out_of_place(aten.add.Tensor) is None
    assert out_of_place(len) is None


def test_a_graph_s_code_is_compiled_when_it_is_called() -> None:
    import torch

    from edgekit.compiler.torch_compat import compiled
    from tests.helpers.graphs import export_graph

    graph = export_graph(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten()), (1, 3, 2, 2))
    image = -torch.ones(1, 3, 2, 2)
    assert torch.equal(graph(image), torch.zeros(1, 12))
    (relu,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    relu.target = torch.ops.aten.neg.default
    graph.recompile()
    assert "neg" in graph.code
    assert torch.equal(graph(image), torch.ones(1, 12))
    assert torch.equal(copy.deepcopy(graph)(image), torch.ones(1, 12))
    assert [*inspect.signature(compiled(copy.deepcopy(graph)).forward).parameters] == ["input"]


def test_fake_tensors_work_with_a_graph_s_real_weights() -> None:
    """torch's default mode refuses them. Once it accepts them, `fake_tensors` can be deleted."""
    import torch
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    from edgekit.compiler.torch_compat import fake_tensors

    image = torch.zeros(1, 3)
    graph = torch.export.export(torch.nn.Linear(3, 4), (image,)).module(check_guards=False)
    with pytest.raises(Exception, match="convert all Tensors to FakeTensors first"):
        FakeTensorProp(graph).propagate(image)
    FakeTensorProp(graph, fake_tensors()).propagate(image)
    (linear,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert linear.meta["val"].shape == (1, 4)


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 255, "uint8"), (-128, 127, "int8"), (-(2**31), 2**31 - 1, "int32")]
)
def test_q_and_dq_give_torch_s_own_values(low: int, high: int, kind: str) -> None:
    import torch
    from torch.ao.quantization.fx import _decomposed

    import edgekit.compiler.torch_compat  # noqa: F401  (registers the kernels)

    grid = (0.037, (low + high) // 3, low, high, getattr(torch, kind))
    for x in (torch.randn(1, 8, 40, 40) * 5, torch.randn(3, 4).half(), torch.tensor([])):
        before = x.clone()
        levels = torch.ops.quantized_decomposed.quantize_per_tensor.default(x, *grid)
        assert levels.dtype == grid[-1]
        assert torch.equal(levels, _decomposed.quantize_per_tensor(x, *grid))
        kept = levels.clone()
        values = torch.ops.quantized_decomposed.dequantize_per_tensor.default(levels, *grid)
        assert torch.equal(values, _decomposed.dequantize_per_tensor(levels, *grid))
        assert torch.equal(x, before)
        assert torch.equal(levels, kept)


class _Harmful:
    def __reduce__(self) -> Any:
        return os.getpid, ()


def test_an_exported_graph_is_loaded_without_running_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from edgekit.compiler.torch_compat import weights_only_loads

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    file = io.BytesIO()
    torch.save(_Harmful(), file)
    assert "weights_only" not in inspect.signature(torch.export.load).parameters, (
        "torch.export.load has an argument for it now"
    )
    for before in (None, "0"):
        monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)
        file.seek(0)
        with weights_only_loads(), pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=False)
        assert os.environ.get(name) == before


def test_timm_names_a_checkpoints_filter_by_convention() -> None:
    import torch

    from edgekit.models.timm_source import checkpoint_filter

    rename = checkpoint_filter("convnextv2_atto")
    assert rename is not None
    assert rename({"downsample_layers.0.0.weight": torch.zeros(1)}, None).keys() == {"stem.0.weight"}
    assert checkpoint_filter("dla34") is None


def test_torchvision_renames_the_tensors_of_published_densenets() -> None:
    from edgekit.models.torchvision_source import renamed_as_published

    state = {"features.denseblock1.denselayer1.norm.1.weight": 1}
    assert renamed_as_published("densenet121", state) == {"features.denseblock1.denselayer1.norm1.weight": 1}
    assert renamed_as_published("resnet18", state) is state


def test_open_clip_converts_a_checkpoint_before_it_loads_it() -> None:
    library = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    import torch
    from torch import nn

    from edgekit.models.open_clip_source import present_layout

    class Model(nn.Module):
        logit_bias = None

        def __init__(self) -> None:
            super().__init__()
            self.visual, self.text = nn.Module(), nn.Module()
            self.text.positional_embedding = nn.Parameter(torch.zeros(2, 3))

    state = {"positional_embedding": torch.ones(2, 3), "text_projection": torch.ones(1)}
    assert present_layout(library, state, Model()).keys() == {"text.positional_embedding", "text.text_projection"}


def test_an_image_tower_of_open_clip_is_built_alone() -> None:
    library = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    import torch

    from edgekit.models.open_clip_source import build_vision_tower, keep_first_query

    config = library.get_model_config("coca_ViT-B-32")
    config["vision_cfg"] |= {"layers": 1, "image_size": 32}
    torch.manual_seed(0)
    tower: Any = build_vision_tower(library, config).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted, queries = tower(image)[0], tower.attn_pool.query.shape[0]
        keep_first_query(tower)
        assert queries == 256
        assert tower.attn_pool.query.shape[0] == 1
        torch.testing.assert_close(tower(image)[0], wanted)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # LSTM assigns its weights to itself
def test_a_program_decomposed_by_node_is_the_one_that_torch_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from edgekit.compat import torch_export

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 8, 3, stride=2)
            self.norm, self.rows = nn.LayerNorm(8), nn.LSTM(4, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.convolution(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = nn.functional.interpolate(x, size=(5, 5), mode="bilinear")
            left, right = nn.functional.gelu(nn.functional.adaptive_avg_pool2d(x, 2)).flatten(2).chunk(2, 1)
            query, key, value = (rows.transpose(1, 2) for rows in (left, right, left * right))
            rows, _ = self.rows(nn.functional.scaled_dot_product_attention(query, key, value))
            logits: torch.Tensor = self.head(rows.mean(1))
            return logits

    def described(program: torch.export.ExportedProgram) -> list[tuple[object, ...]]:
        places = {node: place for place, node in enumerate(program.graph.nodes)}
        return [
            (
                node.target if node.op == "call_function" else node.op,
                torch.fx.node.map_arg(node.args, lambda operand: f"%{places[operand]}"),
                getattr(node.meta.get("val"), "shape", None),
            )
            for node in program.graph.nodes
        ]

    torch.manual_seed(0)
    network, image = nn.Sequential(Small()).eval(), torch.rand(1, 3, 8, 8)  # whose input is called "input"
    program = torch.export.export(network, (image,))
    (resize,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.upsample_bilinear2d.vec)
    resize.target = lambda *args: torch.ops.aten.upsample_bilinear2d.vec(*args)  # as LiteRT's converter wraps it
    expected = program.run_decompositions()
    with torch_export.decomposing_by_node(), monkeypatch.context() as patch:
        patch.delattr(torch_export, "_decompose_by_tracing")
        decomposed = program.run_decompositions()
        patch.delattr(torch_export, "make_fx")  # the second time, nothing is traced
        again = program.run_decompositions()
    assert described(decomposed) == described(again) == described(expected)
    torch.testing.assert_close(decomposed.module()(image), network(image))


def test_each_composite_operation_of_litert_torch_keeps_its_own_mark() -> None:
    import torch
    from litert_torch import fx_infra
    from litert_torch._convert.fx_passes import BuildAtenCompositePass
    from torch import nn

    from edgekit.compat.torch_export import decomposing_by_node

    network = nn.Sequential(nn.Hardswish(), nn.Hardswish())
    with decomposing_by_node():
        program = torch.export.export(network, (torch.zeros(1, 3),))
        program = fx_infra.run_passes(program, [BuildAtenCompositePass()])
        program = fx_infra.safe_run_decompositions(program, {})
    marks = [node.args[3] for node in program.graph.nodes if "mark" in str(node.target)]
    assert (len(marks), len(set(marks))) == (4, 2), marks


def test_torch_traces_code_that_reads_tensors() -> None:
    import torch
    from torch import nn

    from edgekit.compiler.torch_compat import trace_with_values

    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shape", torch.tensor([1, 6]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape([int(side) for side in self.get_buffer("shape")]).relu()

    graph = trace_with_values(Shaped(), torch.zeros(1, 2, 3)).graph
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"][-1] == "aten.relu.default"
    assert not graph.find_nodes(op="call_function", target=torch.ops.aten.item.default)


def test_layer_normalization_of_onnx2pytorch_is_replaced() -> None:
    pytest.importorskip("onnx2pytorch", reason="needs the onnx-models extra")
    import torch
    from onnx import TensorProto, helper

    from edgekit.models.onnx_source import convert

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]) for name in ("scale", "bias")]
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"], epsilon=0.01)
    model = helper.make_model(helper.make_graph([node], "graph", sides[:1], sides[1:], weights))
    x, weight = torch.randn(2, 3), torch.tensor([1.0, 2.0, 3.0])
    module = convert(model)
    (child,) = module.children()
    assert "partial" in repr(child.forward), "the class has another name now"
    torch.testing.assert_close(module(x), torch.nn.functional.layer_norm(x, (3,), weight, weight, 0.01))


def test_blocks_that_replace_functions_of_torch_take_turns() -> None:
    """A thread that leaves such a block takes nothing from another that is inside."""
    from torch.export import exported_program

    from edgekit.compat.torch_export import decomposing_by_node

    def replaced(entered: Event, left: Event) -> Any:
        with decomposing_by_node():
            entered.set()
            left.wait()
            return exported_program._decompose_exported_program

    own, entered, left = exported_program._decompose_exported_program, Event(), Event()
    with ThreadPoolExecutor(1) as pool:
        with decomposing_by_node():
            second = pool.submit(replaced, entered, left)
            entered.wait(0.1)  # it only enters now if nothing keeps it out
        left.set()
        assert second.result() is not own
    assert exported_program._decompose_exported_program is own


def test_nncf_s_quantizer_has_the_parameters_that_edgekit_passes() -> None:
    from edgekit.compiler.nncf_compat import RangeEstimatorParametersSet, quantize_pt2e

    arguments = {
        "subset_size",
        "fast_bias_correction",
        "smooth_quant",
        "activations_range_estimator_params",
        "fold_quantize",
    }
    assert arguments <= inspect.signature(quantize_pt2e).parameters.keys()
    assert all(hasattr(RangeEstimatorParametersSet, name) for name in ("HISTOGRAM", "MINMAX", "MEAN_MINMAX"))


def test_torchao_s_specification_has_the_fields_that_edgekit_sets() -> None:
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    fields = ["dtype", "observer_or_fake_quant_ctr", "quant_min", "quant_max", "qscheme", "ch_axis"]
    assert list(inspect.signature(QuantizationSpec).parameters)[: len(fields)] == fields
    assert {"input_qspec_map", "output_qspec", "_annotated"} <= inspect.signature(
        QuantizationAnnotation
    ).parameters.keys()
    assert {"annotate", "validate"} <= Quantizer.__abstractmethods__


def optimized(path: Path, disabled: list[str], nodes: list[Any], constants: Mapping[str, Any], shape: list[int]) -> Any:
    """Optimize `nodes`, a graph from "x" float32 `shape` to "y", with ONNX Runtime. Returns operations and domains."""
    import onnxruntime

    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in (("x", shape), ("y", None))
    ]
    graph = helper.make_graph(nodes, "canary", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    return {node.op_type for node in onnx.load(path).graph.node}, {node.domain for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("optimizer", "fused"), [("MatMulAddFusion", "Gemm"), ("BiasGeluFusion", "BiasGelu"), ("NchwcTransformer", "nchwc")]
)
def test_onnx_runtime_s_optimizers_have_these_names(tmp_path: Path, optimizer: str, fused: str) -> None:
    ones = np.ones((16, 16), np.float32)
    constants = {"w": ones, "b": ones[0]}
    shape = [4, 16]
    if optimizer == "MatMulAddFusion":
        nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "b"], ["y"])]
    elif optimizer == "BiasGeluFusion":
        nodes = [
            helper.make_node("Add", ["x", "b"], ["t"]),
            helper.make_node("Gelu", ["t"], ["y"], "", None, "com.microsoft"),
        ]
    else:
        shape, constants = [1, 16, 8, 8], {"w": np.ones((16, 16, 3, 3), np.float32)}
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    names = [set.union(*optimized(tmp_path / "m.onnx", off, nodes, constants, shape)) for off in ([], [optimizer])]
    with_it, without_it = ({name.rpartition(".")[2] for name in operations} for operations in names)
    assert fused in with_it
    assert fused not in without_it


def test_onnx_runtime_has_the_integer_product_with_a_bias(tmp_path: Path) -> None:
    int8, one = np.ones((16, 16), np.int8), np.ones((), np.float32)
    constants = {"s": one, "z": np.zeros((), np.uint8), "w": int8, "ws": np.ones(16, np.float32)}
    constants |= {"wz": np.zeros(16, np.int8), "b": np.ones(16, np.float32)}
    names = ["q", "w", "s", "ws", "z", "wz", "b"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft"),
    ]
    operations, _ = optimized(tmp_path / "m.onnx", [], nodes, constants, [4, 16])
    assert "MatMulIntegerToFloat" in operations


def test_litert_still_has_no_ynnpack(tiny_models: Path) -> None:
    """If this fails, LiteRT has other kernels: measure again what recipes and rewrites for it gain."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    model = str(tiny_models / "model.tflite")
    CompiledModel.from_file(model)
    with pytest.raises(RuntimeError):
        CompiledModel.from_file(model, options=Options(cpu_options=CpuOptions(enable_ynnpack=True)))
