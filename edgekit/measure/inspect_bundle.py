"""What `edgekit inspect` and `edgekit classify` do with a bundle or a model file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.config.precisions import Precision
from edgekit.measure.measure_bundles import int8_of
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.row import Int8
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import OpProfile, Profile
from edgekit.runtime.profiling import profile, profile_model
from edgekit.runtime.session import open_session
from edgekit.support.libraries import quiet


@dataclass(frozen=True, kw_only=True)
class Int8Detail(Int8):
    """What ran in integer kernels, operation by operation."""

    total_macs: int
    int8_macs: int
    time_by_kind_ms: Mapping[str, float] | None
    """Milliseconds by kind of operation; None where the runtime does not tell."""
    ops: tuple[OpProfile, ...]


@dataclass(frozen=True, kw_only=True)
class ModelInspection:
    """The document of `edgekit inspect` on a model file of any origin."""

    schema_version: Literal[1] = 1
    model: str
    size_bytes: int
    int8: Int8Detail
    device: DeviceFacts | None = None
    """The device that it ran on, where that is not this machine."""


@dataclass(frozen=True, kw_only=True)
class BundleInspection:
    """The document of `edgekit inspect` on a bundle."""

    schema_version: Literal[1] = 1
    bundle: str
    target: str
    precision: Precision
    scheme: str
    model: str | None
    input_shape: tuple[int, ...]
    classes: int
    device_class: str
    size_bytes: int
    engine: str
    golden_max_abs_difference: float
    golden_tolerance: float
    int8: Int8Detail
    provenance: Mapping[str, Any]
    device: DeviceFacts | None = None
    """The device that it ran on, where that is not this machine."""


Inspection = BundleInspection | ModelInspection


@dataclass(frozen=True)
class Scored:
    """One label and its softmax score, 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class ClassifiedImage:
    """The best labels of one image, best first."""

    image: str
    top: tuple[Scored, ...]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The document of `edgekit classify`."""

    schema_version: Literal[1] = 1
    bundle: str
    results: tuple[ClassifiedImage, ...]


def inspect_bundle(path: Path, threads: int | None, name: str | None = None) -> BundleInspection:
    """What a bundle is and what ran in int8 here; GoldenError if its golden samples give other numbers.

    `name` is what the document calls the bundle; by default its path.
    """
    check_threads(threads)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    with open_session(bundle, threads) as session:
        verified = session.verify()
        engine = f"{session.engine_name} {session.engine_version}"
    with quiet():
        ran = profile(bundle, threads)
    return BundleInspection(
        bundle=name or str(path),
        target=manifest.target,
        precision=manifest.precision,
        scheme=manifest.scheme,
        model=manifest.provenance.get("model", {}).get("name"),
        input_shape=manifest.input_shape,
        classes=manifest.classes,
        device_class=manifest.device_class,
        size_bytes=bundle.size_bytes,
        engine=engine,
        golden_max_abs_difference=verified.max_abs_difference,
        golden_tolerance=verified.tolerance,
        int8=_detail(ran),
        provenance=dict(manifest.provenance),
    )


def inspect_model(path: Path, threads: int | None, name: str | None = None) -> ModelInspection:
    """What ran in int8 of a model file that edgekit need not have made; `name` is as in `inspect_bundle`."""
    with quiet():
        ran = profile_model(path, threads=threads)
    return ModelInspection(model=name or str(path), size_bytes=path.stat().st_size, int8=_detail(ran))


def classify_images(path: Path, images: Sequence[Path], top: int, threads: int | None) -> Classification:
    """The best labels of each image; ImageError for one that can't be read."""
    check_threads(threads)
    results = []
    with open_session(read_bundle(path), threads) as session:
        for image in images:
            best = tuple(Scored(label, score) for label, score in session.classify(image, top))
            results.append(ClassifiedImage(str(image), best))
    return Classification(bundle=str(path), results=tuple(results))


def _detail(ran: Profile) -> Int8Detail:
    summary = int8_of(ran)
    return Int8Detail(
        share_of_macs=summary.share_of_macs,
        method=summary.method,
        float_layers=summary.float_layers,
        simulated=summary.simulated,
        total_macs=ran.total_macs,
        int8_macs=ran.int8_macs,
        time_by_kind_ms=ran.time_by_kind,
        ops=ran.ops,
    )
