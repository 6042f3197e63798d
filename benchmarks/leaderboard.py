"""Members of the leaderboard's families through all three targets: parity, INT8 against float, share in integers.

    python -m benchmarks.leaderboard --data imagenet-500.zip vit_small_patch16_224 davit_tiny --imgsz 112
    python -m benchmarks.leaderboard --tables

Weights are random and seeded, as `--weights random` makes them, so agreement and signal to noise count and accuracy
doesn't. Each row is kept in benchmarks/leaderboard.json; `--tables` writes docs/leaderboard.md from them.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.rows import keep_rows, read_rows
from edgekit.config.runtimes import RUNTIMES

HERE = Path(__file__).resolve().parent
ROWS, GIANTS, PAGE = HERE / "leaderboard.json", HERE / "giants.json", HERE.parent / "docs/leaderboard.md"
TARGETS = tuple(RUNTIMES)
FLOAT_IMAGES = 8
NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
SYSTEMS = (
    ("CoCa, 91.0 %", "open_clip:coca_ViT-L-14", "open_clip:coca_ViT-B-32", "LAION's, without a head for ImageNet"),
    ("Model soups, BASIC-L, 90.98 %", "coatnet_7_224, then edgekit soup", "coatnet_0_224", "none of BASIC"),
    ("Model soups, ViT-G/14, 90.94 %", "vit_gigantic_patch14_224, then edgekit soup", "vit_small_patch16_224",
     "a CLIP tower only, not the soup"),
    ("DaViT-Giant, 90.4 %", "davit_giant", "davit_tiny", "davit_tiny, small and base only"),
    ("ConvNeXt V2-Huge, 88.9 %", "convnextv2_huge.fcmae_ft_in22k_in1k_512", "convnextv2_atto", "all, CC-BY-NC"),
)  # fmt: skip


def measure(
    model: str, imgsz: int | None, data: Path, calibrate: int, count: int, model_args: Mapping[str, Any] = NO_ARGUMENTS
) -> list[dict[str, Any]]:
    """One row for each target of one model; `model_args` go to its constructor."""
    from edgekit.config.precisions import Precision
    from edgekit.images.crops import crop_samples
    from edgekit.models.logits import batched_logits
    from edgekit.models.options import ModelOptions
    from edgekit.pipeline.build import build_one
    from edgekit.pipeline.graphs import PreparedGraphs
    from edgekit.pipeline.job import prepare
    from edgekit.pipeline.options import Options
    from edgekit.runtime.profiling import profile
    from edgekit.runtime.session import open_session
    from edgekit.support.progress import Reporter

    reporter = Reporter(quiet=True)
    network = ModelOptions(model, weights="random", imgsz=imgsz, model_args=dict(model_args))
    job = prepare(Options(network, data, num_calibration_samples=calibrate, num_eval_samples=count), reporter)
    size = job.network.preprocessing
    crops = crop_samples(job.dataset, job.evaluation.samples, size)
    expected = np.concatenate(list(batched_logits(job.network, crops.pixels, 8)))
    graphs, rows = PreparedGraphs(job, reporter), []
    counts: dict[Precision, int] = {"float": FLOAT_IMAGES, "int8": count}
    for target in TARGETS:
        row: dict[str, Any] = {
            "model": model, "params": job.network.params, "input": size.height, "recipe": job.recipe.name,
            "calibration_images": calibrate, "images": count, "answers": len(set(expected.argmax(1).tolist())),
            "target": target,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for precision, images in counts.items():
                bundle = build_one(graphs, target, precision, Path(folder) / precision, reporter)
                with open_session(bundle, 1) as session:
                    given = np.concatenate([session(size.normalize(each[None])) for each in crops.pixels[:images]])
                error, wanted = given - expected[:images], expected[:images]
                row[f"{precision}_bytes"] = bundle.size_bytes
                if precision == "float":
                    row["float_parity"] = float(f"{np.abs(error).max() / np.abs(wanted).max():.1e}")
                else:
                    row["snr_db"] = round(10 * float(np.log10((wanted**2).sum() / (error**2).sum())), 1)
                    row["agreement"] = round(float((given.argmax(1) == wanted.argmax(1)).mean()), 4)
                    row["int8_share_of_macs"] = round(profile(bundle, 1).share_of_macs, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def tables() -> None:
    """docs/leaderboard.md."""
    rows = read_rows(ROWS)
    lines = [
        "# The leaderboard's systems", "",
        "Written by `benchmarks/leaderboard.py --tables` from `benchmarks/leaderboard.json`. What ran here is a small",
        "member of each family, with seeded random weights (LayerNorm, biases and norms not trivial): float parity is",
        f"the greatest difference from torch on {FLOAT_IMAGES} real images as a share of the largest logit; agreement",
        "and SNR are INT8 against torch's float on real images. Nothing here says how accurate a trained one is.", "",
        "| system | model to type | ran here | public weights |", "|---|---|---|---|",
    ]  # fmt: skip
    ran = {row["model"]: row for row in rows}
    giant = {row["model"]: row for row in read_rows(GIANTS) if "bundles" in row}
    for system, name, small, weights in SYSTEMS:
        row = ran.get(small)
        what = f"`{small}`, {row['params'] / 1e6:.1f} M, {row['input']} px, random weights" if row else "nothing yet"
        if row := giant.get(model_of(name)):
            what += f"; itself, {row['params'] / 1e6:,.0f} M, {row['input']} px, random weights: see below"
        typed = " ".join(f"`{part}`" if "_" in part else part for part in name.replace(",", "").split(" "))
        lines.append(f"| {system} | {typed} | {what} | {weights} |")
    lines += [
        "", "| model | target | float parity | INT8 agreement | SNR dB | MACs in int8 | float, INT8 MB | images |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['target']} | {row['float_parity']:.0e} | {row['agreement']:.1%} | "
            f"{row['snr_db']:.1f} | {row['int8_share_of_macs']:.1%} | {row['float_bytes'] / 1e6:.1f}, "
            f"{row['int8_bytes'] / 1e6:.1f} | {row['images']}, {row['answers']} different answers |"
        )
    lines += [
        *giants(),
        "", "What keeps the giants apart from their small relatives:", "",
        "- `coatnet_7_224` follows the published widths and depths; where two widths meet in its third stage the paper",
        "  says nothing, and a 1x1 convolution stands there.",
        "- A TFLite file holds at most 2 GB: `convnextv2_huge` and larger ones have no float bundle for LiteRT.", "",
    ]  # fmt: skip
    PAGE.write_text("\n".join(lines))


def giants() -> list[str]:
    """A table of the systems themselves, from giants.json."""
    rows = read_rows(GIANTS)
    images = sorted({(row["calibration_images"], row["images"]) for row in rows if "images" in row})
    lines = [
        "", "## The giants", "",
        "`benchmarks/giants.py` ran `edgekit deploy MODEL --weights random` with "
        + "; ".join(f"{few} calibration and {many} evaluation images" for few, many in images) + ".",
        "Memory is of all its processes together, what they share counted once. Seconds are the processor's; latencies",
        "are of a machine that other work shared. Weights round to nearest: GPTQ is for small networks.", "",
        "| model | target | bundle | MB | peak GiB, making it | CPU s | agreement | MACs in int8 | p50 ms | run GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        for each in row.get("bundles", ()):
            made = f"{row['peak_bytes'] / 2**30:.1f} | {row['cpu_seconds']:,.0f}"
            if each["verdict"] == "error":
                lines.append(
                    f"| {row['model']} | {row['target']} | {each['precision']} | {each['reasons'][0]} | | | | | | |"
                )
                continue
            lines.append(
                f"| {row['model']} {row['params'] / 1e6:,.0f} M, {row['input']} px | {row['target']} | "
                f"{each['precision']} | {each['size_bytes'] / 1e6:,.0f} | {made} | {each['agreement']:.0%} | "
                f"{percent(each['int8_share_of_macs'])} | {each['p50_ms']:,.0f} | "
                f"{each['run_peak_bytes'] / 2**30:.1f} |"
            )
        if "refused" in row:
            lines.append(f"| {row['model']} | {row['target']} | refused: {' '.join(row['refused'])} | | | | | | | |")
    ran = {(row["model"], row["target"]) for row in rows}
    names = [model_of(name) for _, name, _, _ in SYSTEMS]
    missing = [f"`{name}` for {target}" for name in names for target in TARGETS if (name, target) not in ran]
    return [*lines, "", f"Not run yet: {', '.join(missing)}."] if missing else lines


def model_of(name: str) -> str:
    """What giants.py calls the model to type: without a tag, or what is done with it afterwards."""
    return name.partition(",")[0].partition(".")[0]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--calibrate", type=int, default=16)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    for model in args.models:
        keep_rows(ROWS, measure(model, args.imgsz, args.data, args.calibrate, args.count), ("model",))
    if args.tables:
        tables()


if __name__ == "__main__":
    main()
