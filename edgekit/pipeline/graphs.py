"""The graphs of one job: exports the network once, then rewrites and calibrates it for each runtime."""

from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.export import simplify, trace
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe
from edgekit.errors import ModelError
from edgekit.images.crops import crop_each, crop_samples
from edgekit.images.overlap import short_hashes
from edgekit.models.logits import torch_logits
from edgekit.pipeline.calibrate import quantize_stage
from edgekit.pipeline.job import Job
from edgekit.pipeline.prepared import ParitySamples, Prepared
from edgekit.pipeline.request import BundleRequest
from edgekit.support.libraries import first_line, quiet
from edgekit.support.progress import Reporter

PARITY_IMAGES = 8
"""Calibration images on which a bundle is compared with torch."""


class PreparedGraphs:
    """Graphs of one job. The network is exported once, for the first graph."""

    def __init__(self, job: Job, reporter: Reporter) -> None:
        self.job, self.reporter = job, reporter
        self._graph: GraphModule | None = None

    @cached_property
    def samples(self) -> ParitySamples:
        """The calibration images that check parity, with torch's logits."""
        job = self.job
        chosen = job.calibration.samples[:PARITY_IMAGES]
        pixels = crop_samples(job.calibration_dataset, chosen, job.network.preprocessing).pixels
        return ParitySamples(pixels, torch_logits(job.network, pixels))

    def with_recipe(self, recipe: Recipe) -> "PreparedGraphs":
        """The same job with another recipe. It shares the loaded network and the exported graph."""
        other = copy(self)
        other.job = replace(self.job, recipe=recipe)
        other.samples = self.samples
        return other

    def request(self, target: str, precision: Precision) -> BundleRequest:
        """Everything that the content of one bundle depends on."""
        job = self.job
        request = BundleRequest(job.network, target, precision, job.recipe, job.device_class)
        if precision == "float":
            return request
        chosen = job.calibration
        return replace(request, calibration_sha256=chosen.sha256, calibration_images=short_hashes(chosen.hashes))

    def fingerprint(self, target: str, precision: Precision) -> str:
        return self.request(target, precision).fingerprint()

    def prepare(self, target: str, precision: Precision, part: slice = slice(None)) -> Prepared:
        """Rewrite the graph of one bundle; if it is int8, calibrate it on `part` of the images."""
        graph = self.exported()
        images = self._calibration[part] if precision == "int8" else []
        title = f"{target}-{precision}: {'calibrate' if images else 'rewrite'}"
        with self.reporter.stage(title, len(images) or None) as step, quiet():
            return quantize_stage(self.request(target, precision), graph, self.samples, images, step)

    @cached_property
    def _calibration(self) -> list[NDArray[np.float32]]:
        """Calibration images, float32 [1,C,H,W]. WeightsError if torch returns NaN for one, which NNCF would ignore."""
        job, images = self.job, []
        with self.reporter.stage("check calibration images", len(job.calibration.samples)) as step:
            for pixels in crop_each(job.calibration_dataset, job.calibration.samples, job.network.preprocessing):
                torch_logits(job.network, pixels[None])
                images.append(job.network.preprocessing.normalize(pixels))
                step()
        return images

    def exported(self) -> GraphModule:
        """The network's graph before any rewrite. It is shared: don't change it."""
        if self._graph is None:
            shape = self.job.network.preprocessing.input_shape
            with self.reporter.stage("export"), quiet():
                try:
                    traced = trace(self.job.network.module, shape)
                except Exception as error:  # the model's own code may raise anything while it is traced
                    raise ModelError(
                        f"torch.export can't trace model '{self.job.network.name}': {first_line(error)}",
                        fix="Change its forward so that it doesn't depend on the values of tensors",
                    ) from error
                self._graph = simplify(traced)
        return self._graph
