"""The graphs of one job: exports the network once, then rewrites and calibrates it for each runtime."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.constant_store import MEMORY, ConstantStore, keep_constants_in
from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.quantize.calibration import Calibration
from edgekit.compiler.simplify import simplify
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe
from edgekit.errors import CompileError, ParityError
from edgekit.images.crops import crop_each, crop_samples
from edgekit.models.logits import batched_logits, torch_logits
from edgekit.pipeline.graph_to_compile import GraphToCompile, ParitySamples
from edgekit.pipeline.parity import Rewriter, check_graph
from edgekit.pipeline.quantize import calibrate_together, quantize_stage
from edgekit.pipeline.request import BuildSpec, BundleInputs, BundleRequest
from edgekit.support.files import replacing, writing
from edgekit.support.hashes import digest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, Step, part_of

COMPARED, CROPPED, CHECKED, CALIBRATED = "compared.npz", "calibration.npy", "checked", "calibrated-{}.pt"
"""Files that the processes of a job share: the images and logits with which the graph was compared with torch, the
crops of the calibration images, a mark that torch's logits for them are finite, and each calibration that is shared."""
PARITY_IMAGES = 8
"""Calibration images on which the graph and each bundle are compared with torch."""


class JobGraphs:
    """Graphs of one job. The network is exported once, for the first graph.

    New constants of the graphs are in `constants`. If other processes have graphs of the same job, `shared` is a folder
    in which the first one stores that it has compared the graph with torch, the calibration images that it cropped, and
    what it calibrated.
    """

    def __init__(
        self, spec: BuildSpec, reporter: Reporter, constants: ConstantStore = MEMORY, shared: Path | None = None
    ) -> None:
        self.spec, self.reporter = spec, reporter
        self._constants = constants
        self._folder = shared
        self._compared = shared / COMPARED if shared else None
        self._cropped = shared / CROPPED if shared else None
        self._graph: GraphModule | None = None
        self._refusal: ParityError | None = None
        self._check_once = cache(self._check_images)
        self._shared: dict[str, Calibration] = {}

    @cached_property
    def samples(self) -> ParitySamples:
        """The calibration images that check parity, with torch's logits."""
        spec = self.spec
        if self._compared and self._compared.exists():
            with np.load(self._compared, allow_pickle=False) as arrays:
                return ParitySamples(arrays["pixels"], arrays["logits"])
        chosen = spec.calibration.samples[:PARITY_IMAGES]
        pixels = crop_samples(spec.calibration_dataset, chosen, spec.network.preprocessing).pixels
        return ParitySamples(pixels, torch_logits(spec.network, pixels))

    def with_recipe(self, recipe: Recipe) -> "JobGraphs":
        """The same job with another recipe. It shares the network, its exported graph and the calibration images."""
        self.exported()
        _ = self.samples, self._calibration  # computed here, so that all copies share them
        other = copy(self)
        other.spec = replace(self.spec, recipe=recipe)
        return other

    def inputs(self, target: str, precision: Precision) -> BundleInputs:
        """Inputs of one bundle of the job."""
        return self.spec.request(target, precision).inputs

    def graph_to_compile(self, target: str, precision: Precision, part: slice = slice(None)) -> GraphToCompile:
        """Rewrite the graph of one bundle; if it is int8, calibrate it on `part` of the images."""
        request = self.spec.request(target, precision)
        return self._to_compile(request, part, self._shared_calibration(request, part))

    def unrounded(self, target: str) -> GraphModule:
        """The graph of a target's int8 bundle with the weights that its layers had before they were rounded.

        It needs no calibration of its own if the bundle shares one.
        """
        shared = self._shared_calibration(self.spec.request(target, "int8"), slice(None))
        nearest = replace(self.spec, recipe=self.spec.recipe.rounding_to_nearest())
        request = nearest.request(target, "int8")
        return self._to_compile(request, slice(None), shared.without_weights() if shared else None).graph

    def _to_compile(self, request: BundleRequest, part: slice, shared: Calibration | None) -> GraphToCompile:
        graph, images = self.exported(), self._calibration[part] if request.precision == "int8" else []
        name = f"{request.target}-{request.precision}"
        if images and shared is None:
            with self._calibrating(f"{name}: calibrate", request.target_recipe, len(images)) as step:
                return quantize_stage(request, graph, self.samples, images, step)
        with self.reporter.stage(f"{name}: rewrite"), quiet():
            return quantize_stage(request, graph, self.samples, images, shared=shared)

    def shares_calibration(self, target: str) -> bool:
        """Whether the int8 bundle of a target shares its calibration with others. It is made now unless it exists."""
        return self._shared_calibration(self.spec.request(target, "int8"), slice(None)) is not None

    def _shared_calibration(self, request: BundleRequest, part: slice) -> Calibration | None:
        """The calibration that the request's runtime shares with others; None if it is calibrated alone."""
        recipe = request.shared_recipe
        return None if recipe is None else self._calibrated(recipe, part)

    def _calibrated(self, recipe: Recipe, part: slice) -> Calibration:
        """The calibration that several runtimes share, made for the first of them."""
        key = f"{recipe!r} {part!r}"
        file = self._folder / CALIBRATED.format(digest(key)[:16]) if self._folder else None
        if key not in self._shared and file and file.exists():
            self._shared[key] = torch.load(file, mmap=True, weights_only=False)  # safe: a process of this job wrote it
        if key not in self._shared:
            images, rewriter = self._calibration[part], Rewriter(self.spec.network, self.samples)
            settings = recipe, self.spec.device_class, rewriter, self.exported()
            with self._calibrating("calibrate", recipe, len(images)) as step:
                self._shared[key] = calibrate_together(*settings, images, step)
            if file:
                with writing(file), replacing(file) as temporary:
                    torch.save(self._shared[key], temporary)
        return self._shared[key]

    @cached_property
    def _calibration(self) -> list[NDArray[np.float32]]:
        """Calibration images, float32 [1,C,H,W]."""
        return [self.spec.network.preprocessing.normalize(pixels) for pixels in self._crops]

    @cached_property
    def _crops(self) -> Sequence[NDArray[np.uint8]]:
        """Crops of the calibration images, uint8 [H,W,C]. The first process of a job makes them."""
        if self._cropped and self._cropped.exists():
            crops: NDArray[np.uint8] = np.load(self._cropped, mmap_mode="r", allow_pickle=False)
            return [*crops]
        return self._crop_calibration()

    def _crop_calibration(self) -> list[NDArray[np.uint8]]:
        """Crop the calibration images, uint8 [H,W,C]. Those of `samples` are cropped already."""
        spec, crops = self.spec, list(self.samples.pixels)
        with self.reporter.stage("crop calibration images", len(spec.calibration.samples)) as step:
            for _ in crops:
                step()
            rest = spec.calibration.samples[len(crops) :]
            for pixels in crop_each(spec.calibration_dataset, rest, spec.network.preprocessing):
                crops.append(pixels)
                step()
        if self._cropped:
            with writing(self._cropped), replacing(self._cropped) as temporary, temporary.open("wb") as file:
                np.save(file, np.stack(crops))
        return crops

    @contextmanager
    def _calibrating(self, title: str, recipe: Recipe, images: int) -> Iterator[Step]:
        """The stage of a calibration. WeightsError if torch returns NaN for an image, which NNCF ignores in histograms.

        With other estimators it makes the calibration fail, and only then is each image checked.
        """
        if recipe.estimator == "histogram":
            self._check_once()
        try:
            with self.reporter.stage(title, images) as step, quiet():
                yield part_of(step, images)
        except CompileError:
            self._check_once()
            raise

    def _check_images(self) -> None:
        """Let torch predict the calibration images that are not in `samples`, unless another process has.

        WeightsError if it returns NaN.
        """
        spec, mark = self.spec, self._folder / CHECKED if self._folder else None
        if mark and mark.exists():
            return
        if rest := self._crops[len(self.samples.pixels) :]:
            with self.reporter.stage("check calibration images", len(rest)) as step:
                for logits in batched_logits(spec.network, np.stack(rest)):
                    step(len(logits))
        if mark:
            mark.touch()

    def exported(self) -> GraphModule:
        """The network's graph before any rewrite. It is shared: don't change it.

        Raises ModelError if torch can't export the network, and ParityError if the graph computes something else.
        """
        if self._refusal is not None:  # for the other bundles, without computing it again
            raise self._refusal
        if self._graph is None:
            with self.reporter.stage("simplify"), quiet():
                graph = copy_sharing(self.spec.network.traced)
                keep_constants_in(graph, self._constants)
                simplify(graph)
            self._compare(graph)
            self._graph = graph
        return self._graph

    def _compare(self, graph: GraphModule) -> None:
        """Compare the graph with torch, unless another process of the job has done so."""
        if self._compared and self._compared.exists():
            return
        with self.reporter.stage("compare the graph with torch"), quiet():
            try:
                check_graph(self.spec.network, graph, self.samples)
            except ParityError as error:
                self._refusal = error
                raise
        if self._compared:
            with writing(self._compared), replacing(self._compared) as temporary, temporary.open("wb") as file:
                np.savez(file, pixels=self.samples.pixels, logits=self.samples.logits)
