"""A browser as a device: Chromium opens the page of a job, and its rows are beside those of this machine."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.devices.web import STEMS
from edgekit.devices.web.browser import Runner
from edgekit.devices.web.server import Build, Download, Opened, OpenRequest, PageServer, Shown
from edgekit.errors import EngineError
from edgekit.runtime.bundle import read_bundle, with_manifest, write_bundle
from edgekit.runtime.session import Session
from tests.helpers.chromium import browsing, opened_tab
from tests.helpers.tiny import CLASSES, SIDE, MakeBundle
from tests.helpers.waiting import DEADLINE_S

EDGEKIT = [sys.executable, "-m", "edgekit"]


def local_address(lines: Iterator[str], scheme: str = "http") -> str:
    """The page's address for this machine, among the lines that edgekit prints."""
    return next(word for line in lines for word in line.split() if word.startswith(f"{scheme}://127.0.0.1:"))


def test_deploy_measures_in_a_browser(
    chromium: str,
    litertjs: Path,
    finished_run: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    command = [*EDGEKIT, "deploy", "run", "--device", "local,web:chromium", "--target",
               "tflite", "--iterations", "10", "--warmup", "2", "--threads", "1", "--quiet"]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(litertjs.parent.parent)}
    with (
        (tmp_path / "out").open("w") as out,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.PIPE, text=True) as job,
    ):
        assert job.stderr is not None
        with browsing(chromium, local_address(job.stderr), tmp_path):
            said = job.stderr.read()
        job.wait(DEADLINE_S)
    report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {(row["device"]["name"], row["precision"]): row for row in report["results"]}
    assert list(rows) == [(device, kind) for device in ("local", "web:chromium") for kind in ("float", "int8")], said
    for kind in ("float", "int8"):
        here, there = rows["local", kind], rows["web:chromium", kind]
        assert there["verdict"] != "error", there
        assert there["engine"].startswith("@litertjs/core ")
        assert there["device"]["browser"]["build"] == "relaxed"
        one_image = 1 / there["accuracy"]["count"]
        assert there["accuracy"]["top1"] == pytest.approx(here["accuracy"]["top1"], abs=1.01 * one_image)
        assert there["snr_db"] == pytest.approx(here["snr_db"], abs=2)
        assert there["latency_ms"]["count"] == 10
        assert there["peak_rss_bytes"] is None
    int8 = rows["web:chromium", "int8"]
    assert int8["int8"]["share_of_macs"] is None
    assert "profiler" in int8["int8"]["method"]
    assert int8["speedup"]["versus"] == "tflite-float"
    assert int8["speedup"]["ratio"] > 0


TASKS: dict[str, dict[str, Any]] = {
    "single-label": {},
    "multi-label": {"task": "multi-label", "activation": "sigmoid"},
    "embedding": {"task": "embedding", "activation": "normalize"},
}
"""What the outputs of the same model can mean."""


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] if changes else []) for task, changes in TASKS.items()]
)
def test_evaluate_in_a_browser(
    task: str,
    chromium: str,
    litertjs: Path,
    finished_run: Path,
    make_bundle: MakeBundle,
    photos: Path,
    tmp_path: Path,
) -> None:
    """Two bundles of a run, and one with the same labels that takes pixels."""
    bundles = [str(tmp_path / f"tflite-{kind}") for kind in ("float", "int8", "pixels")]
    for bundle in bundles[:2]:
        shutil.copytree(finished_run / Path(bundle).name, bundle)
    pixels, labels = read_bundle(make_bundle("tflite", dtype="uint8")), read_bundle(bundles[0]).labels
    write_bundle(Path(bundles[2]), {"model.tflite": pixels.model_path}, pixels.manifest, labels, pixels.golden())
    for bundle in bundles:
        with_manifest(read_bundle(bundle), **TASKS[task])
    data = photos
    if task == "multi-label":
        data = tmp_path / "labels.csv"
        rows = [f"{file},{file.parent.name}|class_0" for file in sorted(photos.glob("*/*.png"))]
        data.write_text("\n".join(["path,labels", *rows]))
    evaluate = [*EDGEKIT, "evaluate", *bundles, "--data", str(data), "--threads", "1", "--json"]
    here = json.loads(subprocess.run(evaluate, capture_output=True, check=True, text=True).stdout)
    environment = os.environ | {"XDG_CACHE_HOME": str(litertjs.parent.parent)}
    with subprocess.Popen(
        [*evaluate, "--device", "web"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stderr is not None
        with browsing(chromium, local_address(job.stderr), tmp_path):
            printed, _ = job.communicate()
    there = json.loads(printed)
    assert there["device"]["browser"]["license"] == "Apache-2.0"
    assert here["device"] is None
    assert [row["bundle"] for row in there["results"]] == bundles
    for row, same in zip(there["results"], here["results"], strict=True):
        top1, score = row["accuracy"]["top1"], row["accuracy"]["score"]
        if task == "single-label":
            assert top1 == pytest.approx(same["accuracy"]["top1"], abs=1 / 40)
        else:
            assert top1 is None
            assert score["metric"] == same["accuracy"]["score"]["metric"]
            assert score["value"] == pytest.approx(same["accuracy"]["score"]["value"], abs=2 / 40)


def test_benchmark_over_https_runs_in_threads(
    chromium: str, litertjs: Path, finished_run: Path, tmp_path: Path
) -> None:
    bundles = [str(finished_run / f"tflite-{precision}") for precision in ("float", "int8")]
    command = [*EDGEKIT, "benchmark", *bundles, "--device", "web", "--web-network", "https",
               "--threads", "2", "--iterations", "10", "--warmup", "2", "--json"]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(litertjs.parent.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        with browsing(chromium, local_address(job.stderr, "https"), tmp_path, "--ignore-certificate-errors"):
            printed, _ = job.communicate()
    rows = json.loads(printed)["results"]
    assert [row["bundle"] for row in rows] == bundles
    for row in rows:
        assert row["verdict"] != "error", row
        assert row["engine"].endswith("(threaded)")
        assert (row["device"]["browser"]["secure"], row["latency_ms"]["count"]) == (True, 10)
    assert rows[1]["speedup"]["ratio"] > 0


def test_a_page_tells_how_far_it_is_in_every_request(
    chromium: str, litertjs: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Without a message, a slow page would count as frozen; the bar on the page counts over all requests."""
    bundle, count = read_bundle(make_bundle("tflite")), 100
    server = PageServer("web", litertjs)

    async def act() -> tuple[list[int], Any, Any]:
        async with opened_tab(chromium, f"http://127.0.0.1:{server.port}{server.path}", tmp_path) as tab:
            server.show(Shown(state="working", title="evaluate", done=0, total=count))
            told = await asyncio.to_thread(ask)
            bar = await tab.evaluate("document.querySelector('progress').value")
            server.show(Shown(state="working", title="load"))
            await asyncio.to_thread(ask)
            return told, bar, await tab.evaluate("document.querySelector('progress').position")

    def ask() -> list[int]:
        stem = STEMS["compat"]
        wasm = server.offer(litertjs / f"{stem}.wasm")
        model = server.offer(bundle.model_path)
        runner = Runner(server, Build(f"runtime/{stem}.js", wasm, 1), 0.1)
        server.joined()
        runner.open(model)
        told = list[int]()
        rows = list(runner.logits(bundle, model, np.zeros((count, SIDE, SIDE, 3), np.uint8), told.append))
        assert (len(rows), rows[0].shape) == (count, (1, CLASSES))
        return told

    try:
        told, bar, without_total = asyncio.run(act())
    finally:
        server.close()
    assert {1, 64, 65, 100} <= set(told)
    assert told == sorted(told)
    assert bar >= 65
    assert without_total == -1


def test_a_page_that_is_loaded_again_while_it_computes(
    chromium: str, litertjs: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Its new worker opens the model again, and computes the images of the request in progress, which are pixels."""
    bundle, images = (
        read_bundle(make_bundle("tflite", dtype="uint8")),
        np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE, 3), np.uint8),
    )
    server, computing, loaded = PageServer("web", litertjs), threading.Event(), threading.Event()

    async def act() -> list[Any]:
        async with opened_tab(chromium, f"http://127.0.0.1:{server.port}{server.path}", tmp_path) as tab:
            asked = asyncio.create_task(asyncio.to_thread(ask))
            await asyncio.to_thread(computing.wait, DEADLINE_S)
            await tab.call("Page.reload")
            loaded.set()
            return await asked

    def ask() -> list[Any]:
        stem = STEMS["compat"]
        wasm = server.offer(litertjs / f"{stem}.wasm")
        model = server.offer(bundle.model_path)
        runner = Runner(server, Build(f"runtime/{stem}.js", wasm, 1), 0.1)
        server.joined()
        runner.open(model)
        undisturbed = list(runner.logits(bundle, model, images))

        def on_step(done: int) -> None:
            if 64 < done < 128:
                computing.set()
                assert loaded.wait(DEADLINE_S)

        return [undisturbed, list(runner.logits(bundle, model, images, on_step))]

    try:
        undisturbed, again = asyncio.run(act())
    finally:
        server.close()
    assert computing.is_set()
    np.testing.assert_array_equal(again, undisturbed)
    with Session(bundle) as session:
        np.testing.assert_allclose(np.concatenate(again), session(images), atol=1e-4)


def test_an_altered_file_is_refused(chromium: str, litertjs: Path, tiny_models: Path, tmp_path: Path) -> None:
    server = PageServer("web", litertjs)
    try:
        stem = STEMS["compat"]
        wasm = server.offer(litertjs / f"{stem}.wasm")
        build, model = Build(f"runtime/{stem}.js", wasm, 1), server.offer(tiny_models / "model.tflite")
        with browsing(chromium, f"http://127.0.0.1:{server.port}{server.path}", tmp_path):
            server.joined()
            opened = msgspec.convert(server.ask(OpenRequest(build=build, models=(model,))), Opened)
            assert opened.load_ms > 0
            with pytest.raises(EngineError, match="altered"):
                server.ask(OpenRequest(build=build, models=(Download(model.url, 64 * "0"),)))
    finally:
        server.close()
