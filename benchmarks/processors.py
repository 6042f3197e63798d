"""Measures INT8 bundles on x86 processors without VNNI, with pairs of weights limited and unlimited.

    python -m benchmarks.processors --data imagenet-500.zip --models demo,convnextv2_atto

Each model is calibrated twice for each runtime. The Q/DQ graph in torch gives what exact arithmetic computes, which is
also what processors with VNNI compute. The bundles run on this machine, and if it has VNNI, also in QEMU's user-mode
emulation (qemu-user-static) of a processor with AVX2 but no VNNI. On this machine, both bundles are timed in turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peerlib.models import SUBJECTS, add_data, random_weights
from benchmarks.peers import HERE
from benchmarks.recording import new_recording
from benchmarks.rows import Row, keep_rows
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES
from edgekit.job import Job
from edgekit.measure import machine
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.pipeline.build import compile_graph
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import lacks_vnni, open_session
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

MODELS = {
    "demo": SUBJECTS["demo"],
    "convnextv2_atto": SUBJECTS["convnextv2_atto"],
    "resnet18": random_weights("resnet18"),
    "efficientnet_lite0": SUBJECTS["efficientnet_lite0"],
    "vit_tiny_patch16_224": random_weights("vit_tiny_patch16_224"),
}
CALIBRATION, EVALUATION = 32, 24
EMULATED = "Haswell"
RUN = """
import sys, warnings
import numpy as np
import edgekit
warnings.simplefilter("ignore")
images, output, *bundles = sys.argv[1:]
logits = {}
for bundle in bundles:
    session = edgekit.load(bundle, threads=1)
    logits[bundle] = np.concatenate([session(image[None]) for image in np.load(images)])
np.savez(output, *[logits[bundle] for bundle in bundles])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--targets", default=",".join(RUNTIMES), help=f"default: {', '.join(RUNTIMES)}")
    parser.add_argument("--emulate", action="store_true", help="emulate a processor on a machine without VNNI, too")
    add_data(parser)
    args = parser.parse_args()
    recording = new_recording()
    for name in args.models.split(","):
        data = MODELS[name].data or args.data
        if data is None:
            parser.error(f"{name}: name ImageNet images with --data; without them run --models demo")
        for target in args.targets.split(","):
            row = measure(name, target, data, args.emulate or not lacks_vnni())
            keep_rows(HERE / "processors.json", [row], ("model", "target"), recording)
            print(row)


def measure(name: str, target: str, data: Path, emulate: bool) -> Row:
    """Signal-to-noise ratios of the logits in dB, and numbers of pairs that can saturate."""
    subject = MODELS[name]
    job = Job(
        subject.model,
        data,
        calibration_data=subject.calibration_data,
        targets=(target,),
        device_class="x86-64-v3",
        num_calibration_samples=CALIBRATION,
        num_eval_samples=EVALUATION,
    )
    spec, chosen = load_job(job, Reporter())
    pixels = chosen.dataset.crop(chosen.evaluation.samples, spec.network.preprocessing).pixels
    images = spec.network.preprocessing.normalize(pixels)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        found = compare(spec, target, Path(folder), torch_logits(spec.network, pixels), images, emulate)
    machine_facts = {"cpu": machine.describe().cpu, "vnni": not lacks_vnni(), "emulated": EMULATED if emulate else None}
    return (
        {"model": name, "target": target, "images": EVALUATION, "calibration_images": CALIBRATION}
        | found
        | machine_facts
    )


def compare(
    spec: BuildSpec,
    target: str,
    folder: Path,
    reference: NDArray[np.float32],
    images: NDArray[np.float32],
    emulate: bool,
) -> Row:
    """Make a bundle without and one with limited pairs, and compare them with torch's logits and with each other."""
    np.save(folder / "images.npy", images)
    graphs, bundles, row = JobGraphs(spec, Reporter()), {}, {}
    for weights, limit in (("unlimited", False), ("limited", True)):
        bundles[weights], exact = build(graphs.with_recipe(recipe(spec, limit)), target, folder / weights, images)
        pairs = bundles[weights].manifest.pairs_that_can_saturate
        row[weights] = {"pairs_that_can_saturate": pairs, "exact_db": round(snr_db(reference, exact), 1)}
    for where, logits in (("host", on_host), *([("emulated", on_emulated)] if emulate else [])):
        for weights, values in zip(bundles, logits(folder, list(bundles.values())), strict=True):
            row[weights][f"{where}_db"] = round(snr_db(reference, values), 1)
            row[weights][f"{where}_agreement"] = float((values.argmax(1) == reference.argmax(1)).mean())
    kernels = [[(op.name, op.kernel) for op in profile_bundle(bundle, 1).ops] for bundle in bundles.values()]
    versions = bundles["limited"].manifest.provenance["versions"]
    runtime = {"runtime": f"{RUNTIMES[target].title} {versions[RUNTIMES[target].distributions[0]]}"}
    return row | {"same_kernels": kernels[0] == kernels[1]} | runtime


def recipe(spec: BuildSpec, limit: bool) -> Recipe:
    """The job's recipe with pairs of weights limited or not."""
    targets = {name: replace(target, limit_weight_pairs=limit) for name, target in spec.recipe.targets.items()}
    return replace(spec.recipe, targets=targets)


def build(
    graphs: JobGraphs, target: str, folder: Path, images: NDArray[np.float32]
) -> tuple[Bundle, NDArray[np.float32]]:
    """An INT8 bundle, and the logits that its graph computes in exact arithmetic."""
    to_compile = graphs.graph_to_compile(target, "int8")
    with torch.no_grad(), quiet():
        exact = np.concatenate([to_compile.graph(torch.from_numpy(image[None])).numpy() for image in images])
    return compile_graph(to_compile, folder / "int8", Reporter(quiet=True)), exact


def on_host(folder: Path, bundles: Sequence[Bundle]) -> list[NDArray[np.float32]]:
    """Logits of the bundles on this machine."""
    images = np.load(folder / "images.npy")
    logits = []
    for bundle in bundles:
        with open_session(bundle, 1) as session:
            logits.append(np.concatenate([session(image[None]) for image in images]))
    return logits


def on_emulated(folder: Path, bundles: Sequence[Bundle]) -> list[NDArray[np.float32]]:
    """Logits of the bundles on the emulated processor."""
    command = ["qemu-x86_64-static", "-cpu", EMULATED, sys.executable, "-c", RUN]
    arguments = [folder / "images.npy", folder / "logits.npz", *(bundle.path for bundle in bundles)]
    subprocess.run([*command, *map(str, arguments)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with np.load(folder / "logits.npz") as arrays:
        return list(arrays.values())


if __name__ == "__main__":
    main()
