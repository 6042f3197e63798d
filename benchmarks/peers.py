"""Compares edgekit's INT8 with the results of the stock tools for the same networks and images.

    python -m benchmarks.peers --models demo --json mine.json
    python -m benchmarks.peers --models convnextv2_atto,convnextv2_tiny --data ~/imagenet/val --json mine.json

The model `demo` needs nothing but this repository; the others need ImageNet images, which the repository can't contain.

The bench builds every candidate and runs 100 real images through each, which a busy machine can do (--build). Then it
times the candidates of each runtime in turn in a process of their own, with 1 and 2 threads, on an idle machine
(--time). The JSON is written after each model, and keeps those of earlier runs of the same code on the same machine.
By default it is that of this kind of processor, so that each kind has a column in the pages; its tables are in the
Markdown file beside it.
"""

import argparse
import json
import multiprocessing
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import when_idle
from benchmarks.peerlib import executorch
from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.results import OURS, Group, add_times, answer_rows, candidate_of, write_results
from benchmarks.peerlib.timing import answer_all, kernel_times, time_all
from benchmarks.recording import features, keep_recording, kind_here, new_recording, recording_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import EdgekitError
from edgekit.measure.bundles import summarize_profile
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import open_session
from edgekit.support.files import replace_text
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

if TYPE_CHECKING:
    from edgekit.pipeline.request import BuildSpec

HERE = Path(__file__).resolve().parent
IMAGES = 128, 100
"""Number of images for calibration and for evaluation."""
THREADS = (1, 2)
ALL_RUNTIMES = (*RUNTIMES, "executorch")
IMAGE = "image.npy"
"""The image in a model's folder with which its candidates are timed."""
P = ParamSpec("P")
T = TypeVar("T")


def main() -> None:
    args = arguments()
    results = kept_results(args.json)
    models = results["models"]
    for name in args.models if args.build or not args.time else ():
        if args.again or name not in models:
            models[name] = build(name, args)
            write(results, args)
    for name in args.models if args.time or not args.build else ():
        for runtime in ALL_RUNTIMES if name in models else ():
            if args.again or runtime not in models[name]["timed"]:
                time_runtime(name, models[name], runtime, args)
                write(results, args)
        if name in models:
            profile_slower(name, models[name])
            write(results, args)


def file_here() -> Path:
    """The JSON of this kind of processor."""
    return HERE / f"peers-{re.sub('[^a-z0-9]+', '-', kind_here().lower())}.json"


def kept_results(path: Path) -> dict[str, Any]:
    """What the JSON has of this code on this machine; otherwise, results without any model."""
    now, before = new_recording(), recording_of(path)
    if before is not None and before.of_today() and before.machine == now.machine:
        results: dict[str, Any] = json.loads(path.read_text())
        return results
    keep_recording(path.parent, now, path.name)
    return {
        "schema_version": 2,
        "executorch": executorch.VERSION,
        "threads": list(THREADS),
        "images": IMAGES[1],
        "models": {},
    }


def write(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Write the JSON, and the tables of what is timed."""
    replace_text(args.json, json.dumps(results, indent=1) + "\n")
    replace_text(args.json.with_suffix(".md"), write_results(results, args.json))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from benchmarks.peerlib.models import ALL_SUBJECTS, SUBJECTS, add_data, check_data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS), help=f"any of {', '.join(ALL_SUBJECTS)}")
    parser.add_argument("--json", type=Path, default=file_here())
    add_data(parser)
    parser.add_argument("--work", type=Path, default=Path("build/peers"), help="folder for the models")
    parser.add_argument("--build", action="store_true", help="only build, and run the images")
    parser.add_argument("--time", action="store_true", help="only time what was built")
    parser.add_argument("--again", action="store_true", help="also do what the JSON already has")
    parser.add_argument("--seconds", type=float, default=20, help="timing of each runtime and number of threads")
    args = parser.parse_args(argv)
    args.models = args.models.split(",")
    check_data(parser, args.models, args.data)
    return args


def build(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Build the candidates of one model, and compare their answers with torch's."""
    made, images, reference, about = make(name, args, runtimes=ALL_RUNTIMES)
    if "avx512_bf16" not in features():
        made = [(candidate, why) for candidate, why in made if "bf16" not in candidate.precision]
    np.save(args.work / name / IMAGE, images[:1])
    rows: list[dict[str, Any]] = []
    for runtime in ALL_RUNTIMES:
        group = [(candidate, why) for candidate, why in made if candidate.runtime == runtime]
        answers = alone(answer_all, [candidate for candidate, why in group if why is None], images)
        failed = {candidate.name: why for candidate, why in group if why is not None}
        rows += answer_rows([candidate for candidate, _ in group], answers | failed, reference)
    for row in rows:
        row["share_of_macs"] = about["shares"].get((row["runtime"], row["candidate"]))
    del about["shares"]
    print(f"{name}: built", flush=True)
    return about | {"timed": {}, "rows": rows}


def time_runtime(name: str, model: dict[str, Any], runtime: str, args: argparse.Namespace) -> None:
    """Time the candidates of one model and runtime."""
    rows = [row for row in model["rows"] if row["runtime"] == runtime and "error" not in row]
    image, candidates = np.load(args.work / name / IMAGE), [candidate_of(row) for row in rows]
    times, conditions = when_idle(
        lambda: alone(time_all, candidates, image, THREADS, args.seconds), f"{name} on {runtime}"
    )
    add_times(rows, times)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    model["timed"][runtime] = {"created": created, **asdict(conditions)}


def profile_slower(name: str, model: dict[str, Any]) -> None:
    """Profile edgekit's INT8 beside each stock INT8 that is faster with one thread, unless the row has it."""
    for group in (Group(model, runtime) for runtime in RUNTIMES):
        ours, stock = group.ours, group.settled_loss(THREADS[0])
        if ours is None or stock is None or "profiles" in ours:
            continue
        pair = [candidate_of(row) for row in (ours, stock)]
        both, _ = when_idle(partial(alone, kernel_times, pair), f"profile of {name} on {ours['runtime']}")
        ours["profiles"] = dict(zip((OURS, stock["candidate"]), both, strict=True))


def alone(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, and wait until the process has ended."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _int8_share(bundle: Bundle) -> float | None:
    with open_session(bundle, 1) as session:
        return summarize_profile(session)[0].share_of_macs


def make(
    name: str,
    args: argparse.Namespace,
    device_class: str | None = None,
    runtimes: Sequence[str] = tuple(RUNTIMES),
    images: tuple[int, int] = IMAGES,
) -> tuple[list[tuple[Candidate, str | None]], NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Build the candidates; return them, the images [N,3,H,W], torch's logits [N,classes] and facts about the model.

    edgekit's candidates are built for the device class, which defaults to this machine's. `runtimes` may name
    executorch and those of peerlib.wheels, which have only stock candidates. `images` are numbers as for `job_of`.
    """
    from benchmarks.peerlib.builds import Stock
    from benchmarks.peerlib.models import job_of
    from edgekit.models.network import torch_logits
    from edgekit.pipeline.loading import load_job

    reporter = Reporter()
    spec, loaded = load_job(job_of(name, args.data, images, device_class), reporter)
    size = spec.network.preprocessing
    pixels = loaded.dataset.crop(loaded.evaluation.samples, size).pixels
    calibration = [size.normalize(crop) for crop in spec.calibration_dataset.crop_each(spec.calibration.samples, size)]
    folder = args.work / name / (device_class or "")
    bundles, made = build_edgekit(spec, [name for name in runtimes if name in RUNTIMES], folder, reporter)
    with reporter.stage("stock tools"), quiet():
        made += list(Stock(spec.network.module, calibration, args.work / name / "stock").candidates(runtimes))
    shares = {
        (bundle.manifest.target, "edgekit int8"): _int8_share(bundle)
        for bundle in bundles
        if bundle.manifest.precision == "int8"
    }
    macs = sum(layer["macs"] for bundle in bundles[:1] for layer in bundle.manifest.layers)
    about = {
        "weights": spec.network.weights if spec.network.weights == "random" else "trained",
        "params": spec.network.params,
        "macs": macs,
        "input": [size.height, size.width],
        "recipe": spec.recipe.name,
        "shares": shares,
    }
    return made, size.normalize(pixels), torch_logits(spec.network, pixels), about


def build_edgekit(
    spec: "BuildSpec", runtimes: Sequence[str], folder: Path, reporter: Reporter
) -> tuple[list[Bundle], list[tuple[Candidate, str | None]]]:
    """Build edgekit's bundles; return them, and the candidates with the reason of each that couldn't be built."""
    from benchmarks.peerlib.builds import edgekit_candidates
    from edgekit.pipeline.builder import Builder
    from edgekit.pipeline.graphs import JobGraphs

    built = Builder(JobGraphs(spec, reporter)).build(list(runtimes), folder)
    bundles = [bundle for bundle in built.values() if isinstance(bundle, Bundle)]
    made: list[tuple[Candidate, str | None]] = [(candidate, None) for candidate in edgekit_candidates(bundles)]
    for name, error in built.items():
        if isinstance(error, EdgekitError):
            target, precision = name.rsplit("-", 1)
            made.append((Candidate(f"edgekit {precision}", target, "edgekit", precision, folder / name), str(error)))
    return bundles, made


def other_bundles(models: dict[str, Any], data: Path) -> list[str]:
    """The models whose bundles of today's code have other files than the recorded ones."""
    from benchmarks.peerlib.models import job_of
    from edgekit.pipeline.loading import load_job

    reporter, others = Reporter(), []
    for name, model in models.items():
        spec, _ = load_job(job_of(name, data, IMAGES), reporter)
        with tempfile.TemporaryDirectory() as folder:
            _, made = build_edgekit(spec, list(RUNTIMES), Path(folder), reporter)
            digests = {(each.runtime, each.name): each.sha256 for each, why in made if why is None}
        recorded = {(row["runtime"], row["candidate"]): row["sha256"] for row in model["rows"] if "sha256" in row}
        if any(digests.get(key) != digest for key, digest in recorded.items()):
            others.append(name)
    return others


if __name__ == "__main__":
    main()
