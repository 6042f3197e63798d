"""Sessions that follow a link: the old bundle is used until the next one has passed its test vectors."""

import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgekit
from edgekit.errors import BundleError, EngineError, GoldenError
from edgekit.runtime import LiveSession, Session, UpdateWarning
from edgekit.runtime.bundle import Golden
from tests.helpers.tiny import MakeBundle

IMAGE = np.zeros((32, 32, 3), np.uint8)


def point(link: Path, bundle: Path) -> Path:
    """Point a link to a bundle, in one step."""
    draft = link.with_name("draft")
    draft.symlink_to(bundle)
    return draft.replace(link)


@pytest.fixture
def bundles(make_bundle: MakeBundle) -> list[Path]:
    return [make_bundle("onnx", name, fingerprint=name) for name in ("one", "two")]


def used(live: LiveSession) -> str:
    """Name of the folder of the bundle that classifies the next image."""
    return live.current().bundle.path.name


def test_a_switch_is_followed_between_two_images(bundles: list[Path], tmp_path: Path) -> None:
    link = point(tmp_path / "current", bundles[0])
    with edgekit.follow(link, threads=1) as live:
        first = live.current()
        assert live.current() is first, "nothing is opened again without a switch"
        labels = live.classify(IMAGE)
        point(link, bundles[1])
        assert live.classify(IMAGE) == labels
        assert used(live) == "two"
        assert first.classify(IMAGE) == labels, "a thread that still has the old session can go on"
        assert live.current().threads == 1
        link.unlink()
        assert used(live) == "two"
        point(link, bundles[0])
        assert used(live) == "one"
    with pytest.raises(EngineError):
        live.classify(IMAGE)


def test_a_switch_is_followed_between_two_images_of_a_stream(bundles: list[Path], tmp_path: Path) -> None:
    link = point(tmp_path / "current", bundles[0])
    switched = threading.Event()

    def frames() -> Iterator[NDArray[np.uint8]]:
        yield IMAGE
        point(link, bundles[1])
        yield IMAGE
        switched.set()

    with edgekit.follow(link, threads=1) as live:
        first, second = live.classify_each(frames())
        assert switched.is_set()
        assert first == second == live.classify(IMAGE)
        assert used(live) == "two"


def test_a_closed_session_stays_closed_when_the_link_changes(bundles: list[Path], tmp_path: Path) -> None:
    link = point(tmp_path / "current", bundles[0])
    live = edgekit.follow(link)
    live.close()
    for bundle in (bundles[1], bundles[0]):
        point(link, bundle)
        with pytest.raises(EngineError):
            live.classify(IMAGE)
        assert used(live) == "one", "no bundle was opened"


def test_a_bundle_that_does_not_pass_is_not_used(
    bundles: list[Path], make_bundle: MakeBundle, tiny_golden: Golden, tmp_path: Path
) -> None:
    wrong = make_bundle("onnx", "wrong", replace(tiny_golden, logits=tiny_golden.logits + np.float32(1)))
    link = point(tmp_path / "current", wrong)
    with pytest.raises(GoldenError):
        edgekit.follow(link)
    point(link, bundles[0])
    with edgekit.follow(link) as live:
        for bad in (wrong, tmp_path):
            point(link, bad)
            with pytest.warns(UpdateWarning, match="one' stays in use, because: "):
                assert used(live) == "one"
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert used(live) == "one", "it is not tried for each image"
        point(link, bundles[1])
        assert used(live) == "two"


def test_a_link_is_resolved_when_its_bundle_is_loaded(bundles: list[Path], tmp_path: Path) -> None:
    link = point(tmp_path / "current", bundles[0])
    with edgekit.load(link) as session:
        assert session.bundle.path == bundles[0]
    with edgekit.load(bundles[0]) as session:
        assert session.bundle.path == bundles[0]
    with pytest.raises(BundleError):
        edgekit.load(tmp_path / "nothing")


def test_other_threads_use_the_old_session_until_the_new_one_is_open(bundles: list[Path], tmp_path: Path) -> None:
    link = point(tmp_path / "current", bundles[0])
    opening, opened = threading.Event(), threading.Event()

    def open_slowly(path: str | os.PathLike[str]) -> Session:
        if Path(path).resolve() == bundles[1]:
            opening.set()
            assert opened.wait(20)
        return edgekit.load(path, threads=1)

    with LiveSession(link, open_slowly) as live, ThreadPoolExecutor(1) as pool:
        point(link, bundles[1])
        other = pool.submit(used, live)
        assert opening.wait(20)
        assert used(live) == "one"
        opened.set()
        assert other.result() == "two"
        assert used(live) == "two"
