"""Fine-tunes the demo model several times, with different seeds and settings, as members of a soup.

    python -m benchmarks.soup --train cifar10-train.zip --work build/soup

Each member starts from the demo's weights and is trained on a subset of the training images at 96 x 96, with crops,
flips and label smoothing. Members differ in the seed (order and subset), the learning rate, the weight decay and the
smoothing. They are written to `--work/member-N.safetensors` (float32). Then choose among them, on images that none has
been trained on:

    edgekit soup build/soup/member-*.safetensors -o build/soup/soup.safetensors --model demo --data cifar10-val-5k.zip
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.train_demo import MODEL, MODEL_ARGS, augment, load_zip, prepare

WEIGHTS = Path(__file__).parents[1] / "edgekit/_assets/demo/convnextv2_cifar10.safetensors"


@dataclass(frozen=True)
class Member:
    """The settings in which one fine-tune differs from the others."""

    seed: int
    lr: float
    weight_decay: float
    smoothing: float


MEMBERS = (
    Member(1, 1e-4, 0.05, 0.0),
    Member(2, 2e-4, 0.05, 0.1),
    Member(3, 3e-4, 0.10, 0.1),
    Member(4, 1e-4, 0.00, 0.2),
    Member(5, 5e-4, 0.05, 0.05),
)


def fine_tune(
    member: Member, images: torch.Tensor, labels: torch.Tensor, count: int, side: int, batch: int
) -> dict[str, torch.Tensor]:
    """Train one member on `count` images with a learning rate that falls to zero; return its state dict."""
    torch.manual_seed(member.seed)
    generator = torch.Generator().manual_seed(member.seed)
    net = timm.create_model(MODEL, **MODEL_ARGS, drop_path_rate=0.05).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    optimizer = torch.optim.AdamW(net.parameters(), lr=member.lr, weight_decay=member.weight_decay)
    order = torch.randperm(len(images), generator=generator)[:count]
    steps = count // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, member.lr, total_steps=steps, pct_start=0.2)
    net.train()
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(prepare(augment(images[chosen], generator), side))
        F.cross_entropy(logits.float(), labels[chosen], label_smoothing=member.smoothing).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: tensor.contiguous() for name, tensor in net.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10000, help="number of images of each fine-tune")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    images, labels, _ = load_zip(args.train)
    for number, member in enumerate(MEMBERS, start=1):
        start = time.time()
        state = fine_tune(member, images, labels, args.count, args.side, args.batch)
        path = args.work / f"member-{number}.safetensors"
        save_file(state, path, metadata={"model": MODEL, "fine-tune": str(member)})
        print(f"{path.name}: {member}, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
