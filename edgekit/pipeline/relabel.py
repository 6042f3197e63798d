"""Gives a bundle other class names, which decide nothing else about its content."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgekit.pipeline.compile import embedded
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.request import BundleInputs
from edgekit.runtime.backend import load_backend
from edgekit.runtime.bundle import Bundle, write_bundle
from edgekit.support.files import writing


def differs_in_labels(bundle: Bundle, inputs: BundleInputs) -> bool:
    """Whether a bundle was made from these inputs, but with other class names."""
    return inputs.differ_in_labels_alone(bundle.manifest.fingerprint, bundle.labels)


def keys_without_labels(built: Iterable[Bundle | Exception], graphs: JobGraphs) -> dict[str, str]:
    """For each bundle that a job would make, the key of its inputs without the names of classes, by its hash."""
    keys = {}
    for bundle in built:
        if isinstance(bundle, Bundle):
            inputs = graphs.inputs(bundle.manifest.target, bundle.manifest.precision)
            if bundle.manifest.fingerprint == inputs.key:
                keys[bundle.sha256] = replace(inputs, labels=()).key
    return keys


def relabel(bundle: Bundle, inputs: BundleInputs) -> Bundle:
    """Replace a bundle that `differs_in_labels` by the one that these inputs give. Returns it."""
    path, manifest = bundle.path, bundle.manifest
    own = (manifest.labels_file, manifest.golden_file)
    files = {name: path / name for name in manifest.files if name not in own}
    with writing(path.parent), tempfile.TemporaryDirectory(prefix=f".{path.name}.compile-", dir=path.parent) as folder:
        model = Path(folder) / manifest.model_file
        shutil.copyfile(bundle.model_path, model)
        metadata = embedded(manifest, inputs.labels, manifest.recorded("model", "name"))
        load_backend(manifest.target).replace_metadata(model, metadata)
        files[manifest.model_file] = model
        renewed = replace(manifest, fingerprint=inputs.key)
        return write_bundle(path, files, renewed, inputs.labels, bundle.golden())
