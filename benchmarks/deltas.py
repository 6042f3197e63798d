"""Measures how much of a bundle an update changes: the sizes of binary deltas next to those of whole files.

    python -m benchmarks.deltas

It needs zstd (`apt install zstd`) and bsdiff4 (`pip install bsdiff4`). It calibrates the demo's network on two disjoint
sets of images, fine-tunes it for a few steps of SGD, and once more from there, and writes benchmarks/deltas.json: for
each runtime and precision, the model files of the newer bundle as they are, compressed with zstd, as a patch of zstd
from the older bundle's, as one of bsdiff4, and as the delta that `edgekit push` makes.
"""

import argparse
import json
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bsdiff4
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from edgekit.cli.main import main as edgekit
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.deltas import write_delta
from edgekit.images.crops import crop_samples
from edgekit.images.dataset import open_dataset
from edgekit.measure.machine import describe
from edgekit.models.demo import assets, demo_model
from edgekit.models.network import load_network
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import write_json

OUTPUT = Path(__file__).with_name("deltas.json")
IMAGES = 64
STEPS, BATCH, RATE = 20, 32, 1e-3
"""Fine-tuning: steps of SGD with momentum, images of a step, and learning rate."""
LEVEL = "-19"
DEMO = [
    *("convnextv2_atto", "--imgsz", "96", "--crop-pct", "1.0", "--interpolation", "bicubic"),
    *("--model-args", "depths=(2,2,4,2),dims=(32,64,128,288),num_classes=10,conv_mlp=False"),
    *("--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616", "--labels", str(assets() / "labels.txt")),
]
"""Options of the demo's network, as `demo_model` has them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for networks and bundles (default: a temporary one)")
    work = parser.parse_args().work
    with tempfile.TemporaryDirectory(prefix="deltas-") as folder:
        rows = measure(work or Path(folder))
    zstd = subprocess.run(["zstd", "--version"], capture_output=True, text=True, check=True).stdout.split(" v")[1]
    versions = {name: version(name) for name in ("openvino", "onnxruntime", "ai-edge-litert", "nncf", "bsdiff4")}
    write_json(
        OUTPUT,
        {
            "machine": {"cpu": describe().cpu},
            "versions": {**versions, "zstd": zstd.split(",")[0]},
            "calibration_images": IMAGES,
            "fine_tuning": {"steps": STEPS, "images_per_step": BATCH, "learning_rate": RATE},
            "rows": rows,
        },
    )
    print(json.dumps(rows, indent=1))


def measure(work: Path) -> list[dict[str, Any]]:
    """A row for each update, runtime and precision."""
    first, second = halves(work / "images")
    weights = Path(str(demo_model().weights))
    tuned, tuned_again = work / "tuned.safetensors", work / "tuned-again.safetensors"
    fine_tune(weights, first, tuned)
    fine_tune(tuned, second, tuned_again)
    versions = {
        "base": make(work / "base", weights, first),
        "other images": make(work / "other-images", weights, second),
        "fine-tuned": make(work / "fine-tuned", tuned, first),
        "fine-tuned again": make(work / "fine-tuned-again", tuned_again, first),
    }
    updates = (
        ("other calibration images", "base", "other images", ("int8",)),
        ("a fine-tune", "base", "fine-tuned", ("float", "int8")),
        ("another fine-tune", "fine-tuned", "fine-tuned again", ("float", "int8")),
    )
    return [
        {"update": name, "target": target, "precision": precision}
        | compare(versions[old] / f"{target}-{precision}", versions[new] / f"{target}-{precision}")
        for name, old, new, precisions in updates
        for target in RUNTIMES
        for precision in precisions
    ]


def halves(folder: Path) -> list[Path]:
    """The demo's evaluation images in two folders."""
    parts = [folder / "first", folder / "second"]
    with zipfile.ZipFile(assets() / "evaluation.zip") as archive:
        names = sorted(archive.namelist())
        for part, start in zip(parts, (0, 1), strict=True):
            archive.extractall(part, names[start::2])
    return parts


def fine_tune(weights: Path, images: Path, result: Path) -> None:
    """Train all weights for a few steps, and save them."""
    torch.manual_seed(0)
    network = load_network(demo_model(str(weights)), seed=0)
    dataset = open_dataset(images, network.labels)
    crops = crop_samples(dataset, dataset.samples, network.preprocessing)
    pixels = torch.from_numpy(network.preprocessing.normalize(crops.pixels))
    labels = torch.from_numpy(crops.labels)
    module = network.module.requires_grad_()
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9)
    for step in range(STEPS):
        chosen = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(module(pixels[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        print(f"{result.name}: step {step}, loss {loss.item():.3f}", flush=True)
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, result)


def make(folder: Path, weights: Path, images: Path) -> Path:
    """The bundles of a network, calibrated on these images."""
    model = [*DEMO, "--weights", str(weights)]
    calibrating = ["--data", str(images), "--calibration-data", str(images), "--num-calibration-samples", str(IMAGES)]
    graphs = f"{folder}-graphs"
    run("quantize", *model, *calibrating, "--output", graphs)
    run("compile", graphs, "--output", str(folder))
    run("compile", *model, "--data", str(images), "--output", str(folder))
    return folder


def run(*arguments: str) -> None:
    code = edgekit([*arguments, "--quiet"])
    if code != 0:
        raise SystemExit(code)


def compare(old: Path, new: Path) -> dict[str, int]:
    """Sizes in bytes of the newer bundle's model files, whole and as deltas."""
    sizes = dict.fromkeys(("whole", "zstd", "zstd_patch", "bsdiff4", "edgekit"), 0)
    with tempfile.TemporaryDirectory(prefix="deltas-") as folder:
        for name in model_files(new):
            before, after, out = old / name, new / name, Path(folder) / "out"
            sizes["whole"] += after.stat().st_size
            sizes["zstd"] += zstd(after, out)
            sizes["zstd_patch"] += zstd(after, out, f"--patch-from={before}")
            sizes["bsdiff4"] += len(bsdiff4.diff(before.read_bytes(), after.read_bytes()))
            write_delta(before, after, out)
            sizes["edgekit"] += out.stat().st_size
    return sizes


def model_files(bundle: Path) -> Sequence[str]:
    """Names of the files that the runtime loads."""
    manifest = read_bundle(bundle).manifest
    return [name for name in manifest.files if name not in (manifest.labels_file, manifest.golden_file)]


def zstd(path: Path, out: Path, *options: str) -> int:
    """Size of a file that zstd compressed."""
    subprocess.run(["zstd", LEVEL, "--force", "--quiet", *options, str(path), "-o", str(out)], check=True)
    return out.stat().st_size


if __name__ == "__main__":
    main()
