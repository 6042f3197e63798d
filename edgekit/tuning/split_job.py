"""A job whose evaluation images are split between the search and the verdict."""

from dataclasses import dataclass, replace

from edgekit.errors import DataError, UsageError
from edgekit.images.selection import Selection, split
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.options import Options
from edgekit.pipeline.request import BuildSpec
from edgekit.support.progress import Reporter
from edgekit.tuning.options import Search


@dataclass(frozen=True)
class SplitJob:
    """The job of a search, and the images that it never sees."""

    spec: BuildSpec
    """What the bundles are built from."""
    images: JobImages
    """The images of the search, which evaluates on the tuning images."""
    held_out: Selection
    """Images for the verdict."""


def load_split_job(options: Options, search: Search, reporter: Reporter) -> SplitJob:
    """Load the network, then choose and split the images. DataError if one part would be empty."""
    tuning, held_out = search.num_tuning_samples, options.num_eval_samples
    for name, count in (("--num-tuning-samples", tuning), ("--num-eval-samples", held_out)):
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}", valid="a whole number from 1")
    both = tuning + held_out if tuning and held_out else None
    spec, images = load_job(replace(options, num_eval_samples=both), reporter)
    total = len(images.evaluation.samples)
    count = tuning or (total - held_out if held_out else total // 2)
    first, rest = split(images.evaluation, max(0, count))
    if held_out:
        rest, _ = split(rest, held_out)
    if not first.samples or not rest.samples or len(rest.samples) < (held_out or 0):
        raise DataError(
            f"'{options.data}' has {total} images besides those for calibration; {max(0, count)} of them for tuning "
            f"leave {len(rest.samples)} for the verdict",
            fix="Add images, or reduce --num-tuning-samples",
        )
    return SplitJob(spec, replace(images, evaluation=first), rest)
