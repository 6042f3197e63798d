"""Checkpoint files: layouts, wrappers, precisions, and files that are refused."""

import argparse
import hashlib
import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.errors import WeightsError
from edgekit.models.checkpoint import read_checkpoint
from edgekit.models.loading import load_network
from edgekit.models.network import Network, check_finite
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

TINY: dict[str, Any] = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_classes": 10}
IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


def load(path: Path, **options: Any) -> Network:
    defaults: dict[str, Any] = {"weights": str(path), "model_args": TINY, "imgsz": 32}
    return load_network(ModelOptions("convnextv2_atto", **(defaults | options)))


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(ModelOptions("convnextv2_atto", weights="random", model_args=TINY, imgsz=32))


@pytest.fixture
def state(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.module.state_dict().items()}


class Norm(nn.Module):
    """LayerNorm over the channels, which are the first or last dimension."""

    def __init__(self, width: int, *, first: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        y = x.movedim(1, -1) if self.first else x
        y = nn.functional.layer_norm(y, self.weight.shape, self.weight, self.bias, 1e-6)
        return y.movedim(-1, 1) if self.first else y


class Response(nn.Module):
    """Global response normalization of [N,H,W,C], with the names and shapes of the original repository."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(1, 1, 1, width)), nn.Parameter(torch.ones(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.square().sum(dim=(1, 2), keepdim=True).sqrt()
        return self.gamma * x * norm / (norm.mean(dim=-1, keepdim=True) + 1e-6) + self.beta + x


class OriginalBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = Norm(width, first=False)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.grn = Response(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.dwconv(x).movedim(1, -1))
        y = self.pwconv2(self.grn(nn.functional.gelu(self.pwconv1(y))))
        return x + y.movedim(-1, 1)


class Original(nn.Module):
    """ConvNeXt V2 with the names and layout of the original repository's checkpoints."""

    def __init__(self, dims: tuple[int, ...], depths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), Norm(dims[0], first=True))
        steps = [
            nn.Sequential(Norm(narrow, first=True), nn.Conv2d(narrow, wide, 2, 2)) for narrow, wide in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *steps])
        stages = zip(dims, depths, strict=True)
        self.stages = nn.ModuleList([nn.Sequential(*(OriginalBlock(width) for _ in range(n))) for width, n in stages])
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        logits: Tensor = self.head(self.norm(x.mean(dim=(2, 3))))
        return logits


@pytest.mark.parametrize(
    "name", ["convnextv2_atto", "convnextv2_tiny"]
)  # timm builds one with 1x1 convolutions, the other with Linears
def test_the_original_layout_gives_the_original_logits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = Original(**TINY).eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    torch.save({"model": original.state_dict()}, tmp_path / "original.pt")
    network = load_network(ModelOptions(name, weights=str(tmp_path / "original.pt"), model_args=TINY, imgsz=32))
    with torch.no_grad():
        expected = original(IMAGES)
        torch.testing.assert_close(network.module(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


SAVERS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "state_dict": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "ema": lambda state: {"model": {name: 0 * value for name, value in state.items()}, "model_ema": state},
    "lightning": lambda state: {"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("wrapper", SAVERS)
def test_timm_layout_is_read_from_every_wrapper(
    wrapper: str, state: dict[str, Tensor], network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(SAVERS[wrapper](state), path)
    loaded = load(path)
    assert torch.equal(loaded.module(IMAGES), network.module(IMAGES))
    assert loaded.weights == str(path)
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.license_note == (
        "if 'weights.pth' was fine-tuned from the published weights of convnextv2_atto.fcmae_ft_in1k, their licence "
        "applies to it too: cc-by-nc-4.0, which forbids commercial use"
    )
    assert load(path, trained_from_scratch=True).license_note is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_of_any_precision_become_float32(
    dtype: torch.dtype, state: dict[str, Tensor], network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: value.to(dtype) for name, value in state.items()}, path)
    loaded = load(path)
    assert {value.dtype for value in loaded.module.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(loaded.module(IMAGES), network.module(IMAGES), rtol=0.1, atol=0.2)


def test_positions_of_another_size_are_resized(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model_args": {"depth": 1, "num_classes": 4}}
    trained = load_network(ModelOptions("vit_tiny_patch16_224", weights="random", imgsz=64, **options))
    torch.save(trained.module.state_dict(), tmp_path / "vit.pth")
    larger = load_network(ModelOptions("vit_tiny_patch16_224", weights=str(tmp_path / "vit.pth"), imgsz=96, **options))
    assert larger.module.get_parameter("pos_embed").shape[1] == 37
    assert larger.license_note is None


def refusal(content: object, tmp_path: Path, **options: Any) -> WeightsError:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "weights.pth", **options)
    return caught.value


def test_names_that_do_not_fit_are_listed_briefly(state: dict[str, Tensor], tmp_path: Path) -> None:
    for name in ["head.fc.weight", "head.fc.bias"]:
        del state[name]
    error = refusal(state | {f"extra.{index}": torch.zeros(1) for index in range(9)}, tmp_path)
    assert "2 missing (head.fc.weight, head.fc.bias)" in error.problem
    assert "9 unexpected (extra.0, extra.1, extra.2 and 6 more)" in error.problem


def test_another_number_of_classes_gets_the_option_that_fixes_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    error = refusal(state, tmp_path, model_args={**TINY, "num_classes": 7})
    assert "2 with another shape (head.fc.weight: file [10, 32], model [7, 32]" in error.problem
    assert "--model-args num_classes=10" in error.fix


def test_another_size_in_either_layout_is_reported_by_shapes(state: dict[str, Tensor], tmp_path: Path) -> None:
    wider = {**TINY, "dims": (16, 32, 48, 64)}
    for content in (state, Original(**TINY).state_dict()):
        error = refusal(content, tmp_path, model_args=wider)
        assert "stem.0.weight: file [8, 3, 4, 4], model [16, 3, 4, 4]" in error.problem
        assert "missing" not in error.problem
        assert "num_classes" not in error.fix
    deeper = {**TINY, "depths": (1, 1, 3, 1)}
    assert "missing (stages.2.blocks.2." in refusal(state, tmp_path, model_args=deeper).problem


def test_another_architecture_is_reported_by_names(tmp_path: Path) -> None:
    other = load_network(
        ModelOptions("mobilenetv3_small_050", weights="random", model_args={"num_classes": 10}, imgsz=32)
    )
    error = refusal(other.module.state_dict(), tmp_path)
    assert "missing (stem.0.weight" in error.problem
    assert "unexpected (" in error.problem
    assert len(error.problem) < 600


def test_integer_weights_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["head.fc.weight"] = torch.ones(10, 32, dtype=torch.int8)
    expected = "1 with another type (head.fc.weight: file torch.int8, model torch.float32)"
    assert expected in refusal(state, tmp_path).problem


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    state["stages.1.blocks.0.mlp.fc1.weight"][0, 0] = value
    problem = refusal(state, tmp_path).problem
    assert "'stages.1.blocks.0.mlp.fc1.weight'" in problem
    assert "NaN or infinity (1 of 1024 values)" in problem


def test_limits_for_clipping_may_be_infinite() -> None:
    """Gemma's layers have them until training narrows them."""
    module = nn.Linear(2, 2)
    module.register_buffer("most", torch.tensor(float("inf")))
    check_finite(module, "random")
    module.register_buffer("least", torch.tensor(float("nan")))
    with refuses(WeightsError, "'least'"):
        check_finite(module, "random")


def test_weights_that_overflow_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    error = refusal({name: value * 3e37 for name, value in state.items()}, tmp_path)
    assert "NaN or infinity for a random image" in error.problem


@pytest.mark.parametrize("mistake", [TypeError("unexpected keyword"), AttributeError("no attribute 'shape'")])
def test_a_bug_in_timms_renaming_is_not_blamed_on_the_file(
    mistake: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise mistake

    monkeypatch.setattr("timm.models.convnext.checkpoint_filter_fn", mistaken)
    problem = refusal({"foreign": torch.zeros(1)}, tmp_path).problem
    assert "don't fit" not in problem
    assert f"{type(mistake).__name__}: {mistake}" in problem


def test_content_without_named_tensors_is_refused(tmp_path: Path) -> None:
    assert "contains a list" in refusal([1, 2], tmp_path).problem
    assert "a dict with epoch, best" in refusal({"epoch": 3, "best": 0.5}, tmp_path).problem
    assert "aren't plain tensors: epoch" in refusal({"a": torch.zeros(1), "epoch": 3}, tmp_path).problem


class Malicious:
    """An object whose pickle calls code that creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    content = {"model": Malicious(tmp_path / "owned")}
    assert "code or objects besides tensors (posix.mkdir)" in refusal(content, tmp_path).problem
    for protocol in (0, 2, 4, 5):
        (tmp_path / "weights.pth").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(WeightsError, match=r"code or objects|as a checkpoint .*(operand|Unpickl)"):
            load(tmp_path / "weights.pth")
    assert not (tmp_path / "owned").exists()


def test_a_whole_module_is_refused(network: Network, tmp_path: Path) -> None:
    """The error has the two lines of Python that save the weights, wherever in the file the module is."""
    for content, weights in ((network.module, "content"), ({"epoch": 3, "model": network.module}, "content['model']")):
        _, first, second = refusal(content, tmp_path).fix.split("\n")
        saved = tmp_path / "weights-weights.pth"
        lines = f"{first.strip()}\n{second.strip()}"
        exec(lines.replace("'weights-weights.pth'", repr(str(saved))))
        assert f"torch.save({weights}.state_dict(), " in second
        assert torch.equal(load(saved).module(IMAGES), network.module(IMAGES))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"this is text", b"PK\x03\x04 half a zip", bytes(range(128, 256)), b"\x80\x02}q\x00."]
)
def test_other_files_are_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"can't be read as a checkpoint|instead of named tensors"):
        load(path)


def test_a_truncated_file_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    for suffix, save in ((".pth", torch.save), (".safetensors", safetensors.torch.save_file)):
        path = tmp_path / f"weights{suffix}"
        save(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match="can't be read as a checkpoint"):
            load(path)


NAMES = [f"name {index}" for index in range(10)]


@pytest.mark.parametrize(
    ("suffix", "save"),
    [
        (".pth", lambda state, path: torch.save({"state_dict": state, "class_names": NAMES}, path)),
        (".pth", lambda state, path: torch.save({"model": state, "args": argparse.Namespace(classes=NAMES)}, path)),
        (".safetensors", lambda state, path: safetensors.torch.save_file(state, path, {"classes": "\n".join(NAMES)})),
    ],
)
def test_class_names_beside_the_weights(
    suffix: str, save: Callable[..., None], state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    save(state, path)
    network = load(path)
    assert network.labels == tuple(NAMES)
    assert network.labels_origin in ("class_names", "args.classes", "classes")


def test_class_names_of_another_head_are_ignored(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": state, "classes": ["cat", "dog"], "names": 7}, tmp_path / "weights.pth")
    network = load(tmp_path / "weights.pth")
    assert network.labels == tuple(f"class_{index}" for index in range(10))
    assert network.labels_doubt is not None
    assert "'weights.pth' are ignored, because the model has 10 outputs and 'classes' has 2 n" in network.labels_doubt


@pytest.mark.parametrize(("suffix", "save"), [(".pth", torch.save), (".safetensors", safetensors.torch.save_file)])
def test_tensors_are_mapped_from_the_file(
    suffix: str, save: Callable[..., None], state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    save(state, path)
    read = read_checkpoint(path)
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert str(path) in Path("/proc/self/maps").read_text()


def test_a_missing_file_and_a_folder_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    with refuses(WeightsError, "none.pth'", "--weights"):
        load_network(ModelOptions("convnextv2_huge", weights=str(tmp_path / "none.pth")))
    with refuses(WeightsError, tmp_path):
        load_network(ModelOptions("convnextv2_huge", weights=str(tmp_path)))
