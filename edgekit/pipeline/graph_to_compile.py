"""A graph that is ready to compile, and how it is stored in a folder."""

import errno
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compat.torch import compiled, lazily_compiled, weights_only_loads
from edgekit.compiler.graph import set_values
from edgekit.config.choices import Activation, Precision
from edgekit.config.device_classes import DeviceClass
from edgekit.config.runtimes import find_runtime
from edgekit.errors import InputError
from edgekit.images.preprocess import Preprocessing
from edgekit.pipeline.request import Provenance
from edgekit.report.serialization import to_json
from edgekit.runtime.manifest import ManifestLayer
from edgekit.support.files import replace_text, replacing, writing
from edgekit.support.libraries import LibraryErrors, quiet

PARITY_IMAGES = 8
"""Calibration images on which the graph and each bundle are compared with torch."""
GRAPH, STAGE, SAMPLES = "graph.pt2", "stage.json", "samples.npz"


@dataclass(frozen=True)
class GraphFacts:
    """Properties of a graph to compile, for the manifest of its bundle."""

    target: str
    precision: Precision
    scheme: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    layers: tuple[ManifestLayer, ...]
    provenance: Provenance
    device_class: DeviceClass
    fingerprint: str
    unmatched: tuple[str, ...]
    """Rewrites of the recipe that match nothing in the network and aren't optional."""
    task: str = "single-label"
    activation: Activation = "softmax"
    thresholds: tuple[float, ...] = ()
    session: Mapping[str, str] = field(default_factory=dict)
    """Session options with which the bundle's engine runs, in addition to those of the compiled files."""


@dataclass(frozen=True, eq=False)
class ParitySamples:
    """Real images on which a bundle is compared with torch."""

    pixels: NDArray[np.uint8]
    """Cropped images [N,H,W,C]."""
    logits: NDArray[np.float32]
    """Logits [N,classes] of torch's float network for these images."""


@dataclass(frozen=True, eq=False)
class GraphToCompile:
    """A graph for one runtime, float or with Q/DQ, and everything else that its bundle needs."""

    graph: GraphModule
    facts: GraphFacts
    samples: ParitySamples
    """Calibration images, of which the first ones become golden samples."""
    fitting: ParitySamples | None = None
    """Images that fit the temperature of an INT8 bundle; None for a bundle without one. `save_graph` leaves them out,
    because only a job that judges its bundles chooses them."""


def save_graph(to_compile: GraphToCompile, folder: Path) -> None:
    """Write a graph to a folder for `load_graph`, and replace an older one.

    Raises OutputError if the folder can't be written or contains something else.
    """
    samples = to_compile.samples
    example = (torch.zeros(to_compile.facts.preprocessing.input_shape),)
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()) and not (folder / STAGE).exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        with replacing(folder) as temporary:
            temporary.mkdir(parents=True)
            with quiet(), torch.no_grad():
                torch.export.save(torch.export.export(compiled(to_compile.graph), example), temporary / GRAPH)
            np.savez(temporary / SAMPLES, pixels=samples.pixels, logits=samples.logits)
            (temporary / STAGE).write_text(to_json(to_compile.facts), encoding="utf-8")


def load_graph(folder: Path) -> GraphToCompile:
    """Load a graph that `save_graph` wrote, with weights_only=True. Raises InputError for any other folder."""
    # numpy and torch raise almost anything on a damaged file.
    refused = LibraryErrors(lambda raised: _not_a_graph(folder, raised))
    facts = read_facts(folder)
    with quiet(), weights_only_loads(), refused, np.load(folder / SAMPLES, allow_pickle=False) as arrays:
        samples = ParitySamples(arrays["pixels"], arrays["logits"])
        graph = lazily_compiled(torch.export.load(folder / GRAPH).module(check_guards=False))
    return GraphToCompile(set_values(graph), facts, samples)


def read_facts(folder: Path) -> GraphFacts:
    """Read the facts that `save_graph` wrote, without its graph, which may be gigabytes.

    Raises InputError if the facts are damaged or a file is no longer whole, and UsageError for an unknown target.
    """
    try:
        facts = msgspec.json.decode((folder / STAGE).read_bytes(), type=GraphFacts)
    except (OSError, msgspec.DecodeError) as error:
        raise _not_a_graph(folder, error if isinstance(error, OSError) else f"{STAGE}: {error}") from error
    find_runtime(facts.target)
    for name in (GRAPH, SAMPLES):
        if not zipfile.is_zipfile(folder / name):
            raise _not_a_graph(folder, f"{name} is missing or damaged")
    return facts


def save_facts(facts: GraphFacts, folder: Path) -> None:
    """Replace the facts of a graph that `save_graph` wrote."""
    with writing(folder / STAGE):
        replace_text(folder / STAGE, to_json(facts))


def _not_a_graph(folder: Path, reason: object) -> InputError:
    return InputError(
        f"'{folder}' is not a graph that `edgekit quantize` wrote: {reason}",
        fix="Make one with `edgekit quantize MODEL`",
    )
