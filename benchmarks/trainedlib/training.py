"""Trains small networks of several families on CIFAR-10 or on scenes, in a few minutes of one core each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.train_demo import accuracy, augment, load_zip, optimizers, prepare
from benchmarks.trainedlib.scenes import training_scenes
from edgekit.models.loading import find_source
from edgekit.models.options import ModelOptions
from edgekit.support.files import replacing

TRAIN, VAL = "cifar10-train.zip", "cifar10-val-5k.zip"
BATCH = 100
LR, WEIGHT_DECAY = 3e-3, 0.05
"""Settings of Muon and AdamW."""
WARMUP = 0.15
"""Share of the steps in which the learning rate rises. Then it falls linearly to 0."""


@dataclass(frozen=True)
class Schedule:
    """How to train one network."""

    sides: tuple[int, ...]
    """Side of the square images in pixels, for each epoch. Small images are cheap and sufficient at first."""
    optimizer: Literal["sgd", "muon"] = "sgd"
    """SGD suits networks with batch normalization, Muon the matrices of transformers."""
    bf16: bool = False
    """Whether to compute in bf16, which is faster for some networks on a processor that has it."""


def train(model: ModelOptions, schedule: Schedule, cifar: Path | None, weights: Path, seed: int = 0) -> None:
    """Train the network and write `weights`.

    `cifar` is a folder with cifar10-train.zip and cifar10-val-5k.zip; without it, the network learns scenes.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_zip(cifar / TRAIN)[:2] if cifar else training_scenes()
    net = find_source(model).build_meta(model).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optims = optimizers(net, LR, WEIGHT_DECAY) if schedule.optimizer == "muon" else [_sgd(net)]
    highest = [group["lr"] for group in _groups(optims)]
    loss_of = F.cross_entropy if cifar else several_labels_loss
    per_epoch, step, start = len(images) // BATCH, 0, time.monotonic()
    for epoch, side in enumerate(schedule.sides):
        order, loss_sum = torch.randperm(len(images), generator=generator), 0.0
        for chosen in order[: per_epoch * BATCH].view(per_epoch, BATCH):
            rate = _rate(step / (per_epoch * len(schedule.sides)))
            for group, lr in zip(_groups(optims), highest, strict=True):
                group["lr"] = lr * rate
            batch = prepare(augment(images[chosen], generator) if cifar else images[chosen], side)
            with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
                logits = net(batch)
            loss = loss_of(logits.float(), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optims:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step, loss_sum = step + 1, loss_sum + float(loss.detach())
        seconds = time.monotonic() - start
        print(f"{model.name}: epoch {epoch + 1} at {side} px, loss {loss_sum / per_epoch:.3f}, {seconds:.0f} s")
    if cifar:
        held_out, answers, _ = load_zip(cifar / VAL)
        top1 = accuracy(net, held_out, answers, schedule.sides[-1])
        print(f"{model.name}: top-1 {top1:.4f} on {len(held_out)} images")
    with replacing(weights) as beside:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, beside)


def linear_head(model: ModelOptions, backbone: dict[str, Tensor], cifar: Path, count: int) -> dict[str, Tensor]:
    """Weights of the head that logistic regression fits to the features of `count` training images."""
    from sklearn.linear_model import LogisticRegression

    net: Any = find_source(model).build_meta(model).eval()
    net.load_state_dict(backbone, strict=False)
    images, labels, _ = load_zip(cifar / TRAIN)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    with torch.no_grad():
        batches = (prepare(images[part], model.model_args["img_size"]) for part in chosen.view(-1, BATCH))
        features = torch.cat([net.forward_head(net.forward_features(batch), pre_logits=True) for batch in batches])
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(features.numpy(), labels[chosen].numpy())
    found = {"head.weight": fitted.coef_, "head.bias": fitted.intercept_}
    return {name: torch.from_numpy(value).float().contiguous() for name, value in found.items()}


def several_labels_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of [N,classes], the sum over the classes and the mean over the images."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)


def _rate(done: float) -> float:
    """Learning rate at this share of all steps, relative to the highest."""
    return done / WARMUP if done < WARMUP else (1 - done) / (1 - WARMUP)


def _sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _groups(optims: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optims for group in optimizer.param_groups]
