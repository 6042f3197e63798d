"""The graphs of one job: exports the network once, then rewrites and calibrates it for each runtime."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from edgekit.compiler.constant_store import MEMORY, ConstantStore, keep_constants_in
from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.quantize.calibration import Calibration
from edgekit.compiler.simplify import simplify
from edgekit.config.choices import Precision
from edgekit.config.recipes import Recipe
from edgekit.errors import CompileError, ParityError
from edgekit.images.dataset import Dataset, Sample, crop_each, crop_samples
from edgekit.models.network import batched_logits, torch_logits
from edgekit.pipeline.graph_to_compile import PARITY_IMAGES, GraphToCompile, ParitySamples
from edgekit.pipeline.parity import Rewriter, check_graph
from edgekit.pipeline.quantize import calibrate_together, quantize_stage
from edgekit.pipeline.request import BuildSpec, BundleInputs, BundleRequest
from edgekit.support.files import digest, replacing, writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, Step, part_of

T = TypeVar("T")


class JobGraphs:
    """Graphs of one job. The network is exported once, for the first graph.

    New constants of the graphs are in `constants`. If other processes have graphs of the same job, `shared` is a folder
    for results that the first one stores for all: that it has compared the graph with torch, the calibration images
    that it has cropped and checked, and what it has calibrated.
    """

    def __init__(
        self, spec: BuildSpec, reporter: Reporter, constants: ConstantStore = MEMORY, shared: Path | None = None
    ) -> None:
        self.spec, self.reporter = spec, reporter
        self._constants, self._folder = constants, shared
        self._results: dict[str, Any] = {}

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """The result of `make`, unless graphs with another recipe, or another process, have one under this name."""
        if name not in self._results:
            self._results[name] = make() if self._folder is None else _stored(self._folder / f"{name}.pt", make)
        result: T = self._results[name]
        return result

    def with_recipe(self, recipe: Recipe) -> "JobGraphs":
        """The same job with another recipe. It shares the network, its exported graph and the calibration images."""
        _ = self.simplified, self._calibration  # computed here, so that all copies share them
        other = copy(self)
        other.spec = replace(self.spec, recipe=recipe)
        return other

    def inputs(self, target: str, precision: Precision) -> BundleInputs:
        """Inputs of one bundle of the job."""
        return self.spec.request(target, precision).inputs

    def graph_to_compile(self, target: str, precision: Precision) -> GraphToCompile:
        """Rewrite the graph of one bundle; if it is int8, calibrate it."""
        request = self.spec.request(target, precision)
        to_compile = self._to_compile(request, self._shared_calibration(request))
        return to_compile if precision == "float" else replace(to_compile, fitting=self._fitting)

    def unrounded(self, target: str) -> GraphModule:
        """The graph of a target's int8 bundle with the weights that its layers had before they were rounded.

        It needs no calibration of its own if the bundle shares one.
        """
        shared = self._shared_calibration(self.spec.request(target, "int8"))
        nearest = replace(self.spec, recipe=self.spec.recipe.rounding_to_nearest())
        request = nearest.request(target, "int8")
        return self._to_compile(request, shared.without_weights() if shared else None).graph

    def _to_compile(self, request: BundleRequest, shared: Calibration | None) -> GraphToCompile:
        graph, images = self.simplified, self._calibration if request.precision == "int8" else []
        name = f"{request.target}-{request.precision}"
        if images and shared is None:
            with self._calibrating(f"{name}: calibrate", request.target_recipe, len(images)) as step:
                return quantize_stage(request, graph, self.samples, images, step)
        with self.reporter.stage(f"{name}: rewrite"), quiet():
            return quantize_stage(request, graph, self.samples, images, shared=shared)

    def shares_calibration(self, target: str) -> bool:
        """Whether the int8 bundle of a target shares its calibration with others. It is made now unless it exists."""
        return self._shared_calibration(self.spec.request(target, "int8")) is not None

    def _shared_calibration(self, request: BundleRequest) -> Calibration | None:
        """The calibration that the request's runtime shares with others; None if it is calibrated alone."""
        recipe = request.shared_recipe
        return None if recipe is None else self._calibrated(recipe)

    def _calibrated(self, recipe: Recipe) -> Calibration:
        """The calibration that several runtimes share, made for the first of them."""

        def calibrate() -> Calibration:
            images, rewriter = self._calibration, Rewriter(self.spec.network, self.samples)
            with self._calibrating("calibrate", recipe, len(images)) as step:
                return calibrate_together(recipe, self.spec.device_class, rewriter, self.simplified, images, step)

        key = digest(repr(recipe))[:16]
        return self._once(f"calibrated-{key}", calibrate)

    @cached_property
    def _calibration(self) -> list[NDArray[np.float32]]:
        """Calibration images, float32 [1,C,H,W]."""
        return [self.spec.network.preprocessing.normalize(pixels) for pixels in self._crops.numpy()]

    @property
    def _crops(self) -> Tensor:
        """Crops of the calibration images, uint8 [N,H,W,C]. Those of `samples` are cropped already."""
        return self._once("cropped", self._crop_images)

    def _crop_images(self) -> Tensor:
        spec, crops = self.spec, list(self.samples.pixels)
        with self.reporter.stage("crop calibration images", len(spec.calibration.samples)) as step:
            for _ in crops:
                step()
            rest = spec.calibration.samples[len(crops) :]
            for pixels in crop_each(spec.calibration_dataset, rest, spec.network.preprocessing):
                crops.append(pixels)
                step()
        return torch.from_numpy(np.stack(crops))

    @contextmanager
    def _calibrating(self, title: str, recipe: Recipe, images: int) -> Iterator[Step]:
        """The stage of a calibration. WeightsError if torch returns NaN for an image, which NNCF ignores in histograms.

        With other estimators it makes the calibration fail, and only then is each image checked.
        """
        if recipe.estimator == "histogram":
            self._check_images()
        try:
            with self.reporter.stage(title, images) as step, quiet():
                yield part_of(step, images)
        except CompileError:
            self._check_images()
            raise

    def _check_images(self) -> None:
        """Let torch predict the calibration images, once. Raises WeightsError if it returns NaN."""
        self._once("checked", self._predict_images)

    def _predict_images(self) -> bool:
        rest = self._crops.numpy()[len(self.samples.pixels) :]  # torch has predicted those in `samples`
        if len(rest):
            with self.reporter.stage("check calibration images", len(rest)) as step:
                for logits in batched_logits(self.spec.network, rest):
                    step(len(logits))
        return True

    @cached_property
    def simplified(self) -> GraphModule:
        """The network's graph before any rewrite. It is shared: don't change it.

        Raises ModelError if torch can't export the network, and ParityError if the graph computes something else.
        """
        with self.reporter.stage("simplify"), quiet():
            graph = copy_sharing(self.spec.network.traced)
            keep_constants_in(graph, self._constants)
            simplify(graph)

        def compare() -> ParityError | None:
            with self.reporter.stage("compare the graph with torch"), quiet():
                try:
                    check_graph(self.spec.network, graph, self.samples)
                except ParityError as error:
                    return error
            return None

        if difference := self._once("compared", compare):
            raise difference
        return graph

    @property
    def samples(self) -> ParitySamples:
        """The calibration images that check parity, with torch's logits."""
        return self._once("samples", self._predict_samples)

    def _predict_samples(self) -> ParitySamples:
        return self._predicted(self.spec.calibration_dataset, self.spec.calibration.samples[:PARITY_IMAGES])

    @property
    def _fitting(self) -> ParitySamples | None:
        """The images that fit a temperature, with torch's logits."""
        dataset, chosen = self.spec.fitting_dataset, self.spec.fitting
        if dataset is None or chosen is None:
            return None
        return self._once("fitting", lambda: self._predicted(dataset, chosen.samples))

    def _predicted(self, dataset: Dataset, samples: Sequence[Sample]) -> ParitySamples:
        pixels = crop_samples(dataset, samples, self.spec.network.preprocessing).pixels
        return ParitySamples(pixels, torch_logits(self.spec.network, pixels))


def _stored(file: Path, make: Callable[[], T]) -> T:
    """The result of `make`, stored in a file by the first process that needs it."""
    if file.exists():
        stored: T = torch.load(file, mmap=True, weights_only=False)  # safe: a process of this job wrote it
        return stored
    result = make()
    with writing(file), replacing(file) as temporary:
        torch.save(result, temporary)
    return result
