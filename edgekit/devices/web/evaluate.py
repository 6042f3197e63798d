"""`edgekit evaluate` in a browser."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.devices.registry import Device
from edgekit.devices.web.pages import Pages, serving
from edgekit.devices.web.runnable import check_reference, runnable_on
from edgekit.images.dataset import Sample
from edgekit.measure.accuracy import Predictions
from edgekit.measure.evaluate_bundles import evaluate_bundles
from edgekit.measure.evaluation import BundleEvaluation
from edgekit.measure.settings import Gates
from edgekit.report.device import DeviceFacts
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter, Step

if TYPE_CHECKING:
    from edgekit.devices.web.browser import Browser


@dataclass(frozen=True)
class InBrowser:
    """Predicts in a browser, for which the first bundle waits."""

    pages: Pages
    own: Device
    threads: int | None

    @cached_property
    def browser(self) -> "Browser":
        """The browser that opened the page."""
        return self.pages.browser(self.own, self.threads)

    @property
    def device(self) -> DeviceFacts:
        """The browser, as reports describe it."""
        return self.browser.row_facts

    def predict(
        self, bundle: Bundle, crops: Iterable[NDArray[np.uint8]], samples: Sequence[Sample], step: Step
    ) -> Predictions:
        """Check the golden samples, and predict for crops [H,W,C]. Raises a StageError."""
        return self.browser.predict(bundle, crops, samples, step)


def evaluate_in_browser(
    device: Device,
    paths: Sequence[Path],
    data: Path,
    count: int | None,
    seed: int,
    threads: int | None,
    reporter: Reporter,
    reference: Path | None = None,
    gates: Gates | None = None,
) -> BundleEvaluation:
    """Evaluate bundles for LiteRT in a browser, as `evaluate_bundles` does here. Raises BrowserError if that fails.

    Raises UsageError for a reference that browsers can't run, since another bundle must not take its place.
    """
    runnable = runnable_on(device, {str(path): read_bundle(path) for path in paths}, reporter)
    if reference:
        check_reference(device, read_bundle(reference))
    with serving([device], reporter) as pages:
        assert pages is not None
        inside = InBrowser(pages, device, threads)
        evaluation = evaluate_bundles(
            [path for path in paths if str(path) in runnable],
            data,
            count,
            seed,
            threads,
            reporter,
            reference=reference,
            gates=gates,
            elsewhere=inside,
        )
        inside.browser.finish(evaluation.results)
        return evaluation
