"""The file of evaluation images has its disk space before the first image is written; torch's first logits are kept."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgekit.images.dataset import UNLABELLED, Dataset
from edgekit.images.selection import select
from edgekit.measure.tasks import task_of
from edgekit.models.network import Network, torch_logits
from edgekit.pipeline import reference
from edgekit.pipeline.job_images import JobImages, ReferenceInputs
from edgekit.pipeline.reference import crop_images, first_logits, form_loss, reserve, torch_answers, with_form
from edgekit.pipeline.request import BuildSpec
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run


def test_disk_space_is_reserved_where_the_system_has_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "pixels.npy"
    pixels = reserve(path, (3, 500, 500, 3))
    size = path.stat().st_size
    assert path.stat().st_blocks * 512 >= size, "the file has holes"
    pixels[:] = 7
    assert pixels.sum(dtype=int) == 7 * pixels.size
    assert path.stat().st_size == size


def test_first_logits_are_kept_or_recalled_or_computed(
    tiny_convnext: Network, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(photos, tiny_convnext.labels)
    crops = dataset.crop(dataset.samples[:6], tiny_convnext.preprocessing)
    logits = torch_logits(tiny_convnext, crops.pixels)
    inputs = ReferenceInputs(tiny_convnext.identity, ("a",), ((0,),), "single-label ()")
    for most, size, count in ((4, 1 << 20, 4), (100, 2 * 10 * 4, 2), (100, 1, 1), (100, 1 << 20, 6)):
        monkeypatch.setattr(reference, "MOST_LOGITS", most)
        monkeypatch.setattr(reference, "LOGITS_BYTES", size)
        with open_run(tmp_path / f"run-{count}") as run:
            rows: list[NDArray[np.float32]] = []
            torch_answers(tiny_convnext, task_of("single-label"), crops, inputs, run, Reporter(quiet=True), rows)
            assert len(rows) == count
            computed = first_logits(tiny_convnext, crops, [], inputs, run, "reference")
            np.testing.assert_allclose(computed, logits[:count], rtol=1e-4, atol=1e-5)
            assert np.array_equal(computed, np.vstack(rows))
            other, doubled = replace(inputs, labels=((1,),)), list(2 * logits[:count])
            assert np.array_equal(first_logits(tiny_convnext, crops, doubled, other, run, "reference"), doubled)
            assert np.array_equal(first_logits(tiny_convnext, crops, [], other, run, "reference"), doubled)


def test_torch_sees_the_exact_form_and_bundles_that_of_the_network(
    tiny_convnext: Network, photos: Path, tmp_path: Path
) -> None:
    for path in photos.glob("class_[01]/*.png"):
        larger = tmp_path / "photos" / path.relative_to(photos)
        larger.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((200, 160), Image.Resampling.BICUBIC).save(larger)
    network = replace(tiny_convnext, preprocessing=tiny_convnext.preprocessing.in_form("fast"))
    dataset = Dataset.open(tmp_path / "photos", network.labels)
    chosen = select(dataset, 6, 0)
    exact, fast = (dataset.crop(chosen.samples, each.preprocessing).pixels for each in (tiny_convnext, network))
    assert not np.array_equal(exact, fast)
    with open_run(tmp_path / "run") as run:
        images = JobImages(dataset, chosen, select(dataset, 1, 0), select(dataset, 1, 0))
        made = crop_images(network, task_of("single-label"), images, tmp_path, run, Reporter(quiet=True))
    np.testing.assert_array_equal(made.crops.pixels, fast)
    assert made.logits is not None
    np.testing.assert_allclose(made.logits, torch_logits(tiny_convnext, exact), rtol=1e-4, atol=1e-5)


@pytest.fixture
def choosing(tiny_convnext: Network, photos: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BuildSpec, JobImages]:
    """A network that counts as trained, and six images to choose on."""
    monkeypatch.setattr(reference, "FEWEST_FOR_FORM", 6)
    dataset = Dataset.open(photos, tiny_convnext.labels)
    chosen, unused = select(dataset, 6, 0), cast(Any, None)
    spec = BuildSpec(replace(tiny_convnext, weights="file"), unused, unused, dataset, chosen, task_of("single-label"))
    return spec, JobImages(dataset, chosen, chosen, chosen)


def test_the_fast_form_is_chosen_if_it_hardly_costs_anything(
    choosing: tuple[BuildSpec, JobImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, images = choosing
    quiet = Reporter(quiet=True)
    low, high = form_loss(spec.network, images.dataset, images.choosing.samples, quiet)
    assert low < high, "the forms of enlarged images differ"
    with open_run(tmp_path / "run") as run:
        for allowed, form in ((4 * high + 0.01, "fast"), (4 * high - 0.01, "exact")):
            assert with_form(spec, images, allowed, run, quiet).network.preprocessing.form == form
            monkeypatch.setattr(reference, "form_loss", None)  # the second time, the loss comes from the run folder


def test_the_form_is_exact_where_no_classes_can_choose_it(
    choosing: tuple[BuildSpec, JobImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, images = choosing
    monkeypatch.setattr(reference, "form_loss", lambda *_: (-1.0, -1.0))
    several = replace(spec, task=task_of("multi-label"))
    random = replace(spec, network=replace(spec.network, weights="random"))
    few = replace(images, choosing=images.choosing.split(5)[0])
    samples = tuple(replace(sample, label=UNLABELLED) for sample in images.dataset.samples)
    unlabelled = replace(images, dataset=replace(images.dataset, samples=samples))
    with open_run(tmp_path / "run") as run:
        for each, chosen, form in (
            (several, images, "exact"),
            (random, images, "exact"),
            (spec, few, "exact"),
            (spec, unlabelled, "exact"),
            (spec, images, "fast"),
        ):
            assert with_form(each, chosen, 1.0, run, Reporter(quiet=True)).network.preprocessing.form == form
