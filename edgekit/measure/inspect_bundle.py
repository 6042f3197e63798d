"""Inspects a bundle or a model file, for `edgekit inspect`, and answers for images, for `edgekit classify`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import DeviceClass, Precision, Runtime
from edgekit.errors import DataError, GoldenError, ImageError, UsageError, printable
from edgekit.images.dataset import Dataset, LabelledImage
from edgekit.images.preprocess import ImageLike
from edgekit.measure.bundles import int8_of
from edgekit.measure.gates import SATURATING, SIMULATED
from edgekit.report.figure import DeviceFacts, all_figures
from edgekit.report.row import Int8
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import OpProfile, Profile, profile_bundle, profile_model, target_of
from edgekit.runtime.session import (
    TOP,
    Session,
    VerifyResult,
    activated,
    golden_error,
    open_session,
    pairs_that_can_saturate,
)
from edgekit.support.libraries import installed_version, quiet
from edgekit.support.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Int8Detail(Int8):
    """Operations of a model, and whether each ran in an integer kernel."""

    total_macs: int
    """MACs of all operations."""
    int8_macs: int
    """MACs of the operations that ran in integer kernels."""
    time_by_kind_ms: Mapping[str, float] | None
    """Milliseconds by kind of operation; None if the runtime doesn't report them."""
    ops: tuple[OpProfile, ...]
    """Operations in the order of the model file."""


def _page(inspection: "Inspection") -> Iterator[str]:
    """What a bundle or a model file contains, and which of its layers run in integer kernels."""
    return map(printable, _lines(inspection))


@dataclass(frozen=True, kw_only=True)
class ModelInspection:
    """Result of `edgekit inspect` for a model file of any origin."""

    schema_version: Literal[1] = 1
    model: str
    size_bytes: int
    int8: Int8Detail
    device: DeviceFacts | None = None
    """Device that it ran on, or None for this machine."""
    target: str | None = None
    """Runtime that ran it; null from a device with an edgekit that did not say."""
    engine: str | None = None
    """Distribution of that runtime and its version, such as "onnxruntime 1.32.0"; null where it isn't known."""

    page = _page

    @property
    def golden_error(self) -> None:
        """None, because a file of any origin has no golden samples."""


@dataclass(frozen=True, kw_only=True)
class BundleInspection:
    """Result of `edgekit inspect` for a bundle."""

    schema_version: Literal[1] = 1
    bundle: str
    target: str
    precision: Precision
    scheme: str
    model: str | None
    input_shape: tuple[int, ...]
    input_dtype: str | None = None
    """Type of the input: "float32" for normalized images, "uint8" for pixels; None from a device with an edgekit that
    did not say."""
    classes: int
    """Number of outputs: of classes, or of values of a vector."""
    task: str = "single-label"
    """Meaning of the outputs."""
    device_class: str
    size_bytes: int
    engine: str
    """Distribution that ran the bundle, and its installed version."""
    made_with: str | None = None
    """The same when the bundle was made, or None if its manifest doesn't record it."""
    golden_max_abs_difference: float | None
    """Largest difference of a test vector's logit; None if a logit isn't finite."""
    golden_tolerance: float
    """Largest difference that is allowed."""
    golden_passed: bool = True
    """Whether the test vectors give the bundle's logits on this machine or device."""
    int8: Int8Detail
    provenance: Mapping[str, Any]
    device: DeviceFacts | None = None
    """Device that it ran on, or None for this machine."""

    page = _page

    @property
    def golden_error(self) -> GoldenError | None:
        """The error that ends `edgekit inspect` with exit code 1 after the output, if the test vectors differ."""
        if self.golden_passed:
            return None
        difference = nan if self.golden_max_abs_difference is None else self.golden_max_abs_difference
        result, device = VerifyResult(difference, self.golden_tolerance), self.device
        place = f"the processor of '{device.name}'" if device else "this processor"
        return golden_error(self.bundle, result, self.engine, self.made_with, place)


Inspection = BundleInspection | ModelInspection
UNKNOWN = "it isn't known whether pairs of INT8 weights can saturate on x86 processors without VNNI"
SHOWN = 8
"""Number of layers that a summary names."""


def inspect_bundle(path: Path, threads: int | None, name: str | None = None) -> BundleInspection:
    """Describe a bundle and profile it on this machine. Test vectors that differ are in the result, not an error.

    `name` is the bundle's name in the result, by default its path.
    """
    check_threads(threads)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    with open_session(bundle, threads) as session:
        golden = session.compare_golden()
        engine = f"{session.engine_name} {session.engine_version}"
    with quiet():
        ran = profile_bundle(bundle, threads)
    return BundleInspection(
        bundle=name or str(path),
        target=manifest.target,
        precision=manifest.precision,
        scheme=manifest.scheme,
        model=manifest.recorded("model", "name"),
        input_shape=manifest.input_shape,
        input_dtype=manifest.dtype,
        classes=manifest.classes,
        task=manifest.task,
        device_class=manifest.device_class,
        size_bytes=bundle.size_bytes,
        engine=engine,
        made_with=manifest.made_with,
        golden_max_abs_difference=golden.max_abs_difference if isfinite(golden.max_abs_difference) else None,
        golden_tolerance=golden.tolerance,
        golden_passed=golden.passed,
        int8=_detail(ran, manifest.pairs_that_can_saturate),
        provenance=dict(manifest.provenance),
    )


def inspect_model(path: Path, threads: int | None, name: str | None = None) -> ModelInspection:
    """Profile a model file of any origin on this machine; `name` is its name in the result, by default its path."""
    target = target_of(path)
    with quiet():
        ran = profile_model(path, threads=threads)
    return ModelInspection(
        model=name or str(path),
        size_bytes=path.stat().st_size,
        int8=_detail(ran, pairs_that_can_saturate(target, path) if any(op.quantized for op in ran.ops) else None),
        target=target,
        engine=_installed(target),
    )


def _lines(inspection: Inspection) -> Iterator[str]:
    ran = inspection.int8
    yield summary(inspection, DeviceClass.of_host())
    if inspection.device:
        yield f"device: {inspection.device.name} ({inspection.device.cpu})"
    for name, value in vars(inspection).items():
        if isinstance(value, str | int | float):
            yield f"{name}: {value}"
    for figure in all_figures():
        if figure.is_part_of(inspection) and figure.value(inspection) is not None:
            yield f"{figure.title}: {figure.text(inspection)} {figure.unit}"
    simulated = " (simulated in floating point)" if ran.simulated else ""
    yield f"in integer kernels: {ran.int8_macs / 1e6:.1f} of {ran.total_macs / 1e6:.1f} M MACs{simulated}"
    if sentence := portability(ran, inspection.target):
        yield f"on other processors: {sentence}"
    yield f"method: {ran.method}"
    for op in ran.ops:
        if not op.int8:
            yield f"float: {op.name} [{op.kernel}] {op.macs / 1e6:.2f} M MACs: {op.reason}"
    for kind, ms in (ran.time_by_kind_ms or {}).items():
        yield f"time: {kind} {ms:.3f} ms"
    if ran.simulated:
        yield f"note: {SIMULATED}"


def summary(inspection: Inspection, here: str | None) -> str:
    """One line on what ran where. `here` is this machine's class, used when the inspection names no device.

    It looks like "98 % of the multiply-accumulates ran in INT8; in float: stem, head; LiteRT 2.3.0 on x86-64-v4".
    """
    ran, device = inspection.int8, inspection.device
    layers = (ran.float_layers or ()) if ran.int8_macs else ("all layers",) if ran.ops else ()
    floats, more = ", ".join(layers[:SHOWN]), len(layers) - SHOWN
    share = "nothing that multiplies and accumulates was profiled"
    if ran.total_macs and ran.share_of_macs is not None:
        share = f"{ran.share_of_macs:.0%}".replace("%", " %") + " of the multiply-accumulates ran in INT8"
    version = (inspection.engine or "").rpartition(" ")[2]
    title = Runtime.find(inspection.target).title if inspection.target else "its runtime"
    place = (device.device_class or device.name) if device else here or "this machine"
    parts = [share, f"in float: {floats}" + (f" and {more} more" if more > 0 else "") if floats else ""]
    return "; ".join(filter(None, (*parts, " ".join(filter(None, (title, version, "on", place))))))


def _installed(target: str) -> str | None:
    """The first distribution of a runtime that is installed, with its version; None if it is under another name."""
    found = ((name, installed_version(name)) for name in Runtime.find(target).distributions)
    return next((f"{name} {version}" for name, version in found if version), None)


def portability(ran: Int8, target: str | None) -> str | None:
    """One sentence on whether the INT8 layers compute the same on every x86 processor; None if the model has none.

    "unknown" stands for a bundle of an older version, and for an ONNX file where the onnx package is not installed.
    """
    pairs = ran.pairs_that_can_saturate
    if pairs == 0:
        return "INT8 computes the same on every x86 processor"
    if pairs is not None:
        return f"{pairs:,} {SATURATING}"
    runtime = Runtime.find(target) if target else None
    return UNKNOWN if runtime and runtime.saturating_inputs and (ran.share_of_macs or ran.simulated) else None


def _detail(ran: Profile, pairs: int | None) -> Int8Detail:
    return Int8Detail(
        **vars(replace(int8_of(ran), pairs_that_can_saturate=pairs)),
        total_macs=ran.total_macs,
        int8_macs=ran.int8_macs,
        time_by_kind_ms=ran.time_by_kind,
        ops=ran.ops,
    )


@dataclass(frozen=True)
class Scored:
    """A label and its softmax score, or its probability among several labels, from 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class ClassifiedImage:
    """Best labels of one image, the best first."""

    image: str
    top: tuple[Scored, ...]


@dataclass(frozen=True)
class Neighbour:
    """An image of a set, with the name of its class, and the cosine of its vector and another image's, from -1 to 1."""

    image: str
    label: str | None
    cosine: float


@dataclass(frozen=True)
class SearchedImage:
    """The images of a set that are most like one image, the most similar first."""

    image: str
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Result of `edgekit classify`."""

    schema_version: Literal[1] = 1
    bundle: str
    results: tuple[ClassifiedImage | SearchedImage, ...]

    def page(self) -> Iterator[str]:
        """The labels, or the similar images, of each image."""
        for result in self.results:
            if len(self.results) > 1:
                yield printable(result.image)
            if isinstance(result, ClassifiedImage):
                yield from (printable(f"{scored.score:7.2%}  {scored.label}") for scored in result.top)
                if not result.top:
                    yield "no label reaches its threshold"
            else:
                yield from (printable(f"{one.cosine:7.4f}  {one.image}") for one in result.nearest)


def classify_images(
    path: Path,
    images: Sequence[Path],
    top: int | None,
    threads: int | None,
    data: Path | None,
    reporter: Reporter,
    threshold: float | None = None,
) -> Classification:
    """Find the best labels of each image; or, with a bundle that gives vectors, the nearest images of the set `data`.

    `top` and `threshold` are those of `Session.classify`. Raises ImageError for an image that can't be read, and
    UsageError for a set without such a bundle, or the reverse. An image of the set that can't be read costs a warning.
    """
    check_threads(threads)
    bundle = read_bundle(path)
    _check(bundle, data)
    results: Sequence[ClassifiedImage | SearchedImage]
    with open_session(bundle, threads) as session:
        if data is not None:
            results = _searched(session, images, Dataset.open(data, (), "optional"), top or TOP, reporter)
        else:
            best = ((image, session.classify(image, top, threshold)) for image in images)
            results = [ClassifiedImage(str(image), tuple(Scored(*each) for each in labels)) for image, labels in best]
    return Classification(bundle=str(path), results=tuple(results))


def _check(bundle: Bundle, data: Path | None) -> None:
    if bundle.manifest.gives_vectors and data is None:
        raise UsageError(
            f"bundle '{bundle.path}' gives vectors, which have no labels",
            fix="Add `--data FOLDER` to find the images of a folder that are most like each image",
        )
    if data is not None and not bundle.manifest.gives_vectors:
        raise UsageError(
            f"bundle '{bundle.path}' gives scores of classes, and --data is '{data}'",
            valid="--data for a bundle that gives vectors",
            fix="Leave out `--data`",
        )


def _searched(
    session: Session, images: Sequence[Path], dataset: Dataset, top: int, reporter: Reporter
) -> list[SearchedImage]:
    queries = [_unit(session, image) for image in images]
    samples, vectors = [], []
    with reporter.stage(f"embed '{dataset.path}'", len(dataset.samples)) as step:
        for sample in dataset.samples:
            try:
                vectors.append(_unit(session, dataset.image(sample)))
                samples.append(sample)
            except ImageError as error:
                reporter.warn(f"skipped: {error}")
            step()
    if not samples:
        raise DataError(f"'{dataset.path}' has no image that can be read")
    cosines = np.stack(vectors) @ np.stack(queries, axis=1)
    return [SearchedImage(str(image), _nearest(samples, cosines[:, n], top)) for n, image in enumerate(images)]


def _unit(session: Session, image: ImageLike) -> NDArray[np.float32]:
    """The vector of an image with length 1."""
    vector: NDArray[np.float32] = activated(session.embed(image), "normalize")
    return vector


def _nearest(samples: Sequence[LabelledImage], cosines: NDArray[np.float32], top: int) -> tuple[Neighbour, ...]:
    best = np.argsort(-cosines, kind="stable")[:top]
    return tuple(Neighbour(samples[n].name, samples[n].class_name or None, float(cosines[n])) for n in best)
