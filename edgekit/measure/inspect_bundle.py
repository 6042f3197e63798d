"""What `edgekit inspect` and `edgekit classify` do with a bundle or a model file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profiling import profile, profile_model
from edgekit.runtime.session import open_session
from edgekit.support.libraries import quiet


def inspect_bundle(path: Path, threads: int | None) -> dict[str, Any]:
    """The manifest in short, what ran in int8 here, and the golden samples; GoldenError if they differ."""
    check_threads(threads)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    with open_session(bundle, threads) as session:
        verified = session.verify()
        engine = f"{session.engine_name} {session.engine_version}"
    with quiet():
        ran = profile(bundle, threads)
    return {
        "schema_version": 1,
        "bundle": str(path),
        "target": manifest.target,
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "model": manifest.provenance.get("model", {}).get("name"),
        "input_shape": list(manifest.input_shape),
        "classes": manifest.classes,
        "device_class": manifest.device_class,
        "size_bytes": bundle.size_bytes,
        "engine": engine,
        "golden_max_abs_difference": verified.max_abs_difference,
        "golden_tolerance": verified.tolerance,
        "int8": ran.to_dict(),
        "provenance": dict(manifest.provenance),
    }


def classify_images(path: Path, images: Sequence[Path], top: int, threads: int | None) -> dict[str, Any]:
    """The best labels of each image; ImageError for one that can't be read."""
    check_threads(threads)
    results = []
    with open_session(read_bundle(path), threads) as session:
        for image in images:
            best = session.classify(image, top)
            results.append({"image": str(image), "top": [{"label": label, "score": score} for label, score in best]})
    return {"schema_version": 1, "bundle": str(path), "results": results}


def inspect_model(path: Path, threads: int | None) -> dict[str, Any]:
    """What ran in int8 of a model file that edgekit need not have made."""
    with quiet():
        ran = profile_model(path, threads=threads)
    return {"schema_version": 1, "model": str(path), "size_bytes": path.stat().st_size, "int8": ran.to_dict()}
