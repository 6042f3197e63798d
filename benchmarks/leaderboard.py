"""Measures parity, INT8 against float and the INT8 share of MACs for models of the leaderboard's families.

    python -m benchmarks.leaderboard --data imagenet-500.zip vit_small_patch16_224 davit_tiny --imgsz 112
    make figures

The weights are those of `--weights random`, so agreement and signal-to-noise ratio are meaningful, but accuracy isn't.
benchmarks/leaderboard.json stores each row; `make figures` writes docs/concepts/models.md from it.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.recording import new_recording
from benchmarks.rows import keep_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS = HERE / "leaderboard.json"
TARGETS = tuple(RUNTIMES)
FLOAT_IMAGES = 8
"""Images on which the float bundle is compared with torch."""
NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


def measure(
    model: str, imgsz: int | None, data: Path, calibrate: int, count: int, model_args: Mapping[str, Any] = NO_ARGUMENTS
) -> list[dict[str, Any]]:
    """Measure one row for each target of a model, which is built with `model_args`."""
    from edgekit.config.runtimes import Precision
    from edgekit.images.dataset import crop_samples
    from edgekit.job import Job
    from edgekit.models.network import batched_logits
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.build import build_one
    from edgekit.pipeline.graphs import JobGraphs
    from edgekit.pipeline.loading import load_job
    from edgekit.runtime.profile import profile_bundle
    from edgekit.runtime.session import open_session
    from edgekit.support.progress import Reporter

    reporter = Reporter(quiet=True)
    network = ModelOptions(model, weights="random", imgsz=imgsz, model_args=dict(model_args))
    spec, chosen = load_job(Job(network, data, num_calibration_samples=calibrate, num_eval_samples=count), reporter)
    size = spec.network.preprocessing
    crops = crop_samples(chosen.dataset, chosen.evaluation.samples, size)
    expected = np.concatenate(list(batched_logits(spec.network, crops.pixels, 8)))
    graphs, rows = JobGraphs(spec, reporter), []
    counts: dict[Precision, int] = {"float": FLOAT_IMAGES, "int8": count}
    for target in TARGETS:
        row: dict[str, Any] = {
            "model": model, "params": spec.network.params, "input": size.height, "recipe": spec.recipe.name,
            "calibration_images": calibrate, "images": count, "answers": len(set(expected.argmax(1).tolist())),
            "target": target,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for precision, images in counts.items():
                bundle = build_one(graphs, target, precision, Path(folder) / precision)
                with open_session(bundle, 1) as session:
                    logits = np.concatenate([session(size.normalize(crop[None])) for crop in crops.pixels[:images]])
                error, wanted = logits - expected[:images], expected[:images]
                row[f"{precision}_bytes"] = bundle.size_bytes
                if precision == "float":
                    row["float_parity"] = float(f"{np.abs(error).max() / np.abs(wanted).max():.1e}")
                else:
                    row["snr_db"] = round(10 * float(np.log10((wanted**2).sum() / (error**2).sum())), 1)
                    row["agreement"] = round(float((logits.argmax(1) == wanted.argmax(1)).mean()), 4)
                    row["int8_share_of_macs"] = round(profile_bundle(bundle, 1).share_of_macs, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--calibrate", type=int, default=16)
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    for model in args.models:
        keep_rows(ROWS, measure(model, args.imgsz, args.data, args.calibrate, args.count), ("model",), new_recording())


if __name__ == "__main__":
    main()
