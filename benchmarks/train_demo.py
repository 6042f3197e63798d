"""Trains the demo model, a small ConvNeXt V2, with CIFAR-10 on a CPU.

    python -m benchmarks.train_demo --train cifar10-train.zip --val cifar10-val.zip --work build/demo-training

The zips contain ``<anything>/<class>/<image>``. Training resumes from ``--work/checkpoint.pt``. The result is
``--work/demo.safetensors`` (float16, timm's key layout) and ``--work/train.log``.

With only a few cores every image is expensive. So the weight matrices are trained with Muon, which reaches the same
loss in fewer steps than AdamW; the resolution grows during training, because small images are cheap and sufficient at
first; and the evaluated weights are an exponential moving average. With crops and flips alone the network overfits:
after 30 epochs it had 85 % on held-out images and 95 % on training images. So most of the time half of the images are
mixed (CutMix, Yun et al., 2019). Distillation from EfficientNet-Lite0, fine-tuned on the same images at 64 x 64, didn't
help: at that size the teacher is no better than the student.
"""

import argparse
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.support.files import replacing

MODEL = "convnextv2_atto"
MODEL_ARGS: dict[str, Any] = {"depths": (2, 2, 4, 2), "dims": (32, 64, 128, 288), "num_classes": 10, "conv_mlp": False}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# (end as a fraction of all epochs, side of the square input in pixels); the last side is that of the deployed model
SCHEDULE = ((0.6, 64), (1.0, 96))
MIXED_SHARE = 0.85  # fraction of all epochs; the last ones use unmixed images


def load_zip(path: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Load uint8 images [N,3,32,32], int64 labels [N] and sorted class names from a zip in ImageFolder layout."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith((".jpg", ".png")))
        classes = sorted({Path(n).parent.name for n in names})
        images = np.stack([np.asarray(Image.open(BytesIO(archive.read(n))).convert("RGB")) for n in names])
    labels = torch.tensor([classes.index(Path(n).parent.name) for n in names])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop (with a reflected border of 4) and flip each image at random; uint8 [N,3,32,32] to float32 0..255."""
    n, _, height, width = images.shape
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mix(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into half of the images, and mix the targets by its area (CutMix).

    Takes images [N,3,H,W] and labels [N], and returns images and targets [N,classes].
    """
    n, _, height, width = images.shape
    centre_y, centre_x = torch.rand(2, n, 1, generator=generator)
    half_side = 0.5 * torch.rand(n, 1, generator=generator).sqrt() * (torch.rand(n, 1, generator=generator) < 0.5)
    in_rows = (torch.arange(height) / height - centre_y).abs() < half_side
    in_columns = (torch.arange(width) / width - centre_x).abs() < half_side
    box = in_rows[:, :, None] & in_columns[:, None, :]
    share = box.float().mean((1, 2))[:, None]
    own, other = (F.one_hot(indices, MODEL_ARGS["num_classes"]) for indices in (labels, labels.roll(1, 0)))
    return torch.where(box[:, None], images.roll(1, 0), images), own * (1 - share) + other * share


def prepare(images: Tensor, size: int) -> Tensor:
    """Resize like Pillow's bicubic filter, and normalize; float32 [N,3,size,size], channels last in memory."""
    resized = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return ((resized - mean) / std).contiguous(memory_format=torch.channels_last)


def response_norm(self: GlobalResponseNorm, x: Tensor) -> Tensor:
    """GRN with an explicit sum of squares, which the compiler can fuse."""
    norm = (x * x).sum(self.spatial_dim, keepdim=True).add(1e-12).sqrt()
    scale = norm / (norm.mean(self.channel_dim, keepdim=True) + self.eps)
    return x * (1 + scale * self.weight.view(self.wb_shape)) + self.bias.view(self.wb_shape)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, size: int) -> float:
    net.eval()
    hits = 0
    for start in range(0, len(images), 250):
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(prepare(images[start : start + 250], size))
        hits += int((logits.argmax(1) == labels[start : start + 250]).sum())
    net.train()
    return hits / len(images)


def optimizers(net: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Create Muon for the matrices inside the blocks, and AdamW for all other parameters."""
    matrices = [p for name, p in net.named_parameters() if p.ndim == 2 and not name.startswith("head")]
    taken = {id(p) for p in matrices}
    decayed = [p for p in net.parameters() if id(p) not in taken and p.ndim > 1]
    plain = [p for p in net.parameters() if id(p) not in taken and p.ndim <= 1]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.98),
        ),
    ]


class Training:
    """The networks, their optimizers and their progress."""

    def __init__(self, args: argparse.Namespace, steps_per_epoch: int) -> None:
        GlobalResponseNorm.forward = response_norm  # type: ignore[method-assign]
        self.args, self.steps_per_epoch, self.step, self.epoch = args, steps_per_epoch, 0, 0
        self.net = timm.create_model(MODEL, **MODEL_ARGS, drop_path_rate=0.05).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if args.init:
            self.net.load_state_dict({name: tensor.float() for name, tensor in load_file(args.init).items()})
        self.average = timm.create_model(MODEL, **MODEL_ARGS)
        self.average.load_state_dict(self.net.state_dict())
        self.average.requires_grad_(False)
        self.fast: Callable[[Tensor], Tensor] = torch.compile(self.net, dynamic=False)
        self.optimizers = optimizers(self.net, args.lr, args.weight_decay)

    def restore(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.epoch = state["step"], state["epoch"]

    def keep(self, checkpoint: Path) -> None:
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "epoch": self.epoch,
        }
        with replacing(checkpoint) as beside:
            torch.save(state, beside)

    @property
    def side(self) -> int:
        """Side of this epoch's images in pixels."""
        return next(side for share, side in SCHEDULE if self.epoch < share * self.args.epochs)

    def run_epoch(self, images: Tensor, labels: Tensor) -> Iterator[float]:
        """Train for one epoch; yield the loss of each step."""
        args, side, mixed = self.args, self.side, self.epoch < MIXED_SHARE * self.args.epochs
        generator = torch.Generator().manual_seed(args.seed * 1000 + self.epoch)
        order = torch.randperm(len(images), generator=generator)
        for i in range(self.steps_per_epoch):
            chosen = order[i * args.batch : (i + 1) * args.batch]
            batch, targets = augment(images[chosen], generator), labels[chosen]
            if mixed:
                batch, targets = mix(batch, targets, generator)
            yield self.run_step(prepare(batch, side), targets)
        self.epoch += 1

    def run_step(self, images: Tensor, targets: Tensor) -> float:
        """Train one step; `targets` are labels [N] or probabilities [N,classes]. Returns the loss."""
        warmup, total = self.steps_per_epoch, self.args.epochs * self.steps_per_epoch
        rate = min(self.step / warmup, 1.0) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / total)))
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.args.lr * rate
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.fast(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.05)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(0.999, (self.step + 1) / (self.step + 10))
        weights = [parameter.detach() for parameter in self.net.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - decay)
        return float(loss.detach())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from (timm's layout), instead of random ones")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    log_file = (args.work / "train.log").open("a")

    def log(message: str) -> None:
        print(message, flush=True)
        print(message, file=log_file, flush=True)

    torch.manual_seed(args.seed)
    images, labels, classes = load_zip(args.train)
    val_images, val_labels, val_classes = load_zip(args.val)
    assert classes == val_classes, (classes, val_classes)
    training = Training(args, len(images) // args.batch)
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        training.restore(checkpoint)
        log(f"resumed after epoch {training.epoch}")
    settings = {name: str(value) for name, value in vars(args).items()}
    log(json.dumps({**settings, "model_args": MODEL_ARGS, "torch": torch.__version__}))

    started = time.time()
    while training.epoch < args.epochs:
        side, running, title = training.side, 0.0, f"epoch {training.epoch + 1}"
        for i, loss in enumerate(training.run_epoch(images, labels)):
            running += loss
            if i == 50:
                log(f"  {title} step 50: loss {running / 51:.3f}, {time.time() - started:.0f} s since start")
        now = accuracy(training.average, val_images[::5], val_labels[::5], side)
        log(
            f"{title}/{args.epochs} size {side} loss {running / training.steps_per_epoch:.4f} "
            f"accuracy of the average on every fifth held-out image {now:.4f} ({time.time() - started:.0f} s)"
        )
        training.keep(checkpoint)

    average = training.average
    half = {name: tensor.half().contiguous() for name, tensor in average.state_dict().items()}
    average.load_state_dict({name: tensor.float() for name, tensor in half.items()})
    final = accuracy(average.float(), val_images, val_labels, SCHEDULE[-1][1])
    save_file(half, args.work / "demo.safetensors", metadata={"model": MODEL, "model_args": json.dumps(MODEL_ARGS)})
    log(f"final: {final:.4f} top-1 on {len(val_images)} held-out images, float16 weights, input {SCHEDULE[-1][1]}")


if __name__ == "__main__":
    main()
