"""What browsers can do for `edgekit benchmark`, `deploy` and `evaluate`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import find_runtime
from edgekit.devices.registry import Device
from edgekit.devices.web.pages import Pages, serving
from edgekit.errors import UsageError
from edgekit.images.dataset import Sample
from edgekit.measure.baselines import Group
from edgekit.measure.evaluation import BundleEvaluation
from edgekit.measure.settings import Timing
from edgekit.measure.tasks import Answers, Task
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
        self, task: Task, bundle: Bundle, crops: Iterable[NDArray[np.uint8]], samples: Sequence[Sample], step: Step
    ) -> Answers:
        """Check the golden samples, and run the bundle on crops [H,W,C]. Raises a StageError."""
        return self.browser.predict(task, bundle, crops, samples, step)


def evaluate_in_browser(
    device: Device,
    paths: Sequence[Path],
    reference: Path | None,
    threads: int | None,
    evaluate: Callable[..., BundleEvaluation],
    reporter: Reporter,
) -> BundleEvaluation:
    """Let `evaluate`, which is `evaluate_bundles`, run the bundles for LiteRT in a browser. BrowserError if that fails.

    Raises UsageError for a reference that browsers can't run, since another bundle must not take its place.
    """
    runnable = runnable_on(device, {str(path): read_bundle(path) for path in paths}, reporter)
    if reference:
        check_reference(device, read_bundle(reference))
    with serving([device], reporter) as pages:
        assert pages is not None
        inside = InBrowser(pages, device, threads)
        evaluation = evaluate([path for path in paths if str(path) in runnable], elsewhere=inside)
        inside.browser.finish(evaluation.results)
        return evaluation


BROWSER_TARGET = "tflite"
"""The runtime whose bundles browsers run."""


def check_browsers(devices: Sequence[Device], timing: Timing, targets: Sequence[str] = (BROWSER_TARGET,)) -> None:
    """Raise UsageError if there is a browser among the devices and the job has something that browsers can't do."""
    browser = next((device.name for device in devices if device.is_browser), None)
    if browser is None:
        return
    for option, value in (("--sustain", timing.sustain_s), ("--streams", timing.streams)):
        if value is not None:
            raise UsageError(f"{option} doesn't work in a browser, as '{browser}' is", fix=f"Leave out `{option}`")
    if other := [target for target in targets if target != BROWSER_TARGET]:
        raise UsageError(
            f"'{browser}' is a browser, which can't run bundles for {', '.join(other)}",
            valid=f"--target {BROWSER_TARGET} for a job with a browser",
        )


def runnable_on(device: Device, bundles: Group, reporter: Reporter) -> Group:
    """The bundles that a device can run: a browser runs those for LiteRT. Raises UsageError if it can run none."""
    if not device.is_browser:
        return bundles
    runnable = {name: bundle for name, bundle in bundles.items() if bundle.manifest.target == BROWSER_TARGET}
    if not runnable:
        raise UsageError(
            f"'{device.name}' is a browser, and none of the bundles is for {find_runtime(BROWSER_TARGET).title}",
            valid=f"bundles that were made with --target {BROWSER_TARGET}",
        )
    if others := [name for name in bundles if name not in runnable]:
        reporter.say(f"{device.name}: a browser runs bundles for LiteRT only, so it skips {', '.join(others)}")
    return runnable


def check_reference(device: Device, bundle: Bundle) -> None:
    """Raise UsageError if a browser can't run the bundle that others are to be compared with."""
    target = bundle.manifest.target
    if target != BROWSER_TARGET:
        raise UsageError(
            f"'{device.name}' is a browser, which can't run the reference '{bundle.path}', a bundle for "
            f"{find_runtime(target).title}",
            valid=f"a bundle that was made with --target {BROWSER_TARGET}",
            fix="Name such a bundle with `--reference`, or leave `--reference` out to compare with the first float one",
        )
