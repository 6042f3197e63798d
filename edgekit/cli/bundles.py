"""Commands that take bundles: benchmark, evaluate, inspect and classify, and sign and verify."""

import sys
from pathlib import Path
from typing import Any

from edgekit import api
from edgekit.cli.compat import REQUIRED
from edgekit.cli.frame import BUNDLE, BUNDLES, COMMANDS, MORE, NEEDED, Answer, all_pass, argument, command
from edgekit.devices.registry import LOCAL
from edgekit.job import OF_BUNDLE, Job
from edgekit.job.kinds import Each, Number, Place, Text, own

BENCHMARK_EXAMPLES = """
Examples:
  edgekit benchmark runs/demo-pi5 --device pi5
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8
  edgekit benchmark runs/demo/onnx-float runs/demo/onnx-int8 --min-speedup 1.2
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --threads 4
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --sustain 10m
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --streams 4
  edgekit benchmark runs/demo-pi5/tflite-int8 --device pi5 --camera 1920x1080
"""
EVALUATE_EXAMPLES = """
Examples:
  edgekit evaluate runs/demo --data photos
  edgekit evaluate runs/demo/onnx-float runs/demo/onnx-int8 --data photos
  edgekit evaluate new/onnx-int8 --reference old/onnx-int8 --data photos \\
      --max-drop 0.5
  edgekit evaluate runs/demo --data photos --shard 1/64 --output parts
  edgekit evaluate runs/demo --data photos --join parts
"""


@command(
    COMMANDS,
    of=api.benchmark,
    defaults={"threads": OF_BUNDLE, "min_speedup": "no gate"},
    helps={
        "min_speedup": "Required speedup over the fastest float bundle of the runtime, or over the first bundle if all "
        "of them have one precision. The whole 95 % confidence interval must lie above it.",
    },
    shown=("devices", "threads", "iterations", "min_speedup"),
    judges=True,
    epilog=BENCHMARK_EXAMPLES,
)
def benchmark(stated: dict[str, Any], quiet: bool, bundles: list[Path] = BUNDLES) -> Answer:
    """Measure the latency, memory and energy of bundles, here or on devices.

    The bundles take turns, so that all of them meet the same conditions; on a
    device, each runtime has a process. Int8 bundles are compared with the
    fastest float bundle of their runtime, in bf16 or f16 where the runtime
    would choose that, and others with the first one. The exit code is 1 if a
    bundle misses --min-speedup, or if the timing is too unsteady to tell.
    """
    measured = api.benchmark(bundles, quiet=quiet, **stated)
    return Answer(measured, steps=measured.steps(), passed=all_pass(measured.results))


@command(
    MORE,
    of=api.evaluate,
    defaults={
        "data": REQUIRED,
        "num_eval_samples": "all",
        "threads": f"{OF_BUNDLE}, or 1 for each of several workers",
        "max_drop": "no gate",
        "min_agreement": "95",
    },
    helps={
        "num_eval_samples": "Number of images to evaluate on, of each class in proportion to its size.",
        "devices": "Device to evaluate on: local (this machine), or web for a browser, such as a phone's, that opens "
        "the address which edgekit shows. A browser runs bundles for LiteRT.",
        "threads": "Number of threads that the runtime uses in each process.",
        "max_drop": "Largest loss of top-1 accuracy, or of the task's metric, against the reference, in percentage "
        "points, with which a bundle passes. Its whole 95 % confidence interval must lie within the bound. Float "
        "bundles are exempt if int8 bundles are compared with one.",
        "min_agreement": "Smallest agreement with the reference with which a bundle passes on images without labels: "
        "the share of images with the same answer, or for vectors the cosine in percent. The whole 95 % confidence "
        "interval must reach it.",
    },
    judges=True,
    epilog=EVALUATE_EXAMPLES,
)
def evaluate(stated: dict[str, Any], json_: bool, quiet: bool, bundles: list[Path] = BUNDLES) -> Answer:
    """Measure the accuracy of bundles, or their agreement without labels.

    Prints top-1 and top-5 accuracy, or the metric of another task, and each
    bundle's loss against a reference, such as the float bundle. Of images
    without labels, prints the agreement with the reference. The exit code is 1
    if a bundle misses --max-drop or --min-agreement, or can't show that it keeps it.
    """
    evaluation = api.evaluate(bundles, quiet=quiet, **stated)
    some = stated["data"] if "num_eval_samples" in stated else None
    for warning in evaluation.warnings if json_ else ():
        print(f"warning: {warning}", file=sys.stderr)
    steps = evaluation.steps(some, stated.get("max_drop"))
    return Answer(evaluation, steps=steps, passed=all_pass(evaluation.results))


@command(COMMANDS, "threads", "wheels", defaults={"threads": OF_BUNDLE})
def inspect(
    stated: dict[str, Any],
    json_: bool,
    bundle: Path = argument(
        Place(metavar="BUNDLE"), "A bundle folder, or a model file from any source (.onnx, .tflite or .xml)."
    ),
    device: str = own(
        "Device",
        Text(metavar="DEVICE"),
        "Device to run on: local (this machine), a name from `edgekit devices list`, or ssh://USER@HOST.",
        value=LOCAL,
    ),
) -> Answer:
    """Show what a bundle contains and which of its layers run in integer kernels.

    The first line says what ran where. Runs the bundle's test vectors and
    compares the outputs; a difference is an error after the output. A layer
    that runs in float is listed with the reason.
    """
    from edgekit.devices.registry import Device
    from edgekit.devices.remote import inspect_on
    from edgekit.support.progress import Reporter

    job = Job.of("", stated)
    inspection = inspect_on(Device.find_machine(device, job.wheels), bundle, job.threads, Reporter(quiet=json_))
    return Answer(inspection, error=inspection.golden_error)


@command(
    MORE,
    "threads",
    "data",
    "threshold",
    defaults={"threads": OF_BUNDLE, "threshold": "0, or those of a model with several labels"},
    helps={
        "data": "Images to search, for a bundle that gives vectors: a folder, or a set in any other layout.",
        "threshold": "Smallest score of a label that is printed, from 0 to 1.",
    },
    shown=("threads", "data", "threshold"),
)
def classify(
    stated: dict[str, Any],
    json_: bool,
    bundle: Path = BUNDLE,
    images: list[Path] = argument(Each(Place(), metavar="IMAGE"), "Image files."),
    top: int | None = own(
        "Output",
        Number(1),
        "Number of labels, or of similar images, to print for each image.",
        default="5, or every label that reaches its threshold",
    ),
) -> Answer:
    """Classify images with a bundle.

    Prints the best labels of each image with their softmax scores; of a
    multi-label model, those whose probability reaches the label's threshold.
    With a bundle that gives vectors, prints the images of --data that are
    most similar, with the cosine.
    """
    return Answer(api.classify_job(Job.of("", stated), bundle, images, top, quiet=json_))


@command(MORE)
def sign(
    bundle: Path = BUNDLE,
    key: Path = own(
        "Bundles",
        Place(),
        "PEM file with your private key, of the curve P-256, P-384 or P-521 and without a passphrase.",
        value=NEEDED,
    ),
) -> str:
    """Sign a bundle, so that devices and apps can tell that it is yours.

    Writes model.sig into the bundle's folder, in the OpenSSF Model Signing
    format, which model_signing verifies too. Sign when the bundle is final:
    afterwards no file in its folder may change, and none may be added.
    """
    from edgekit.runtime.signature import SIGNATURE, sign_bundle

    fingerprint = sign_bundle(bundle, key)
    return f"signed: {bundle / SIGNATURE}, with the key {fingerprint}"


@command(MORE)
def verify(
    bundle: Path = BUNDLE,
    trust: Path = own(
        "Bundles", Place(), "PEM file with the signer's public key.", value=NEEDED, flags=("--trust", "--key")
    ),
) -> str:
    """Check that a key signed a bundle, and that nothing in it has changed.

    Accepts signatures of `edgekit sign`, and those that `model_signing sign
    key` wrote to model.sig in the bundle's folder. The exit code is 2 if the
    bundle is not signed, another key signed it, or a file differs, is missing
    or was added.
    """
    from edgekit.runtime.signature import fingerprint, read_public_key, read_signed_bundle

    public = read_public_key(trust)
    read_signed_bundle(bundle, public)
    return f"verified: {bundle} is as it was signed with the key {fingerprint(public)}"
