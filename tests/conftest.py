"""Fixtures of several test files, such as the data next to the checkout and a tiny network for every runtime."""

import gc
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from edgekit.cli.main import main
from edgekit.devices.web import VERSION, runtime_files
from edgekit.errors import MissingExtraError
from edgekit.images.dataset import LabelledCrops
from edgekit.measure import end_to_end
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.tasks import SingleLabel
from edgekit.runtime.bundle import Golden, write_bundle
from tests.helpers.changed import Affected
from tests.helpers.environments import build, install_as_printed, new_environment
from tests.helpers.forks import keep_onnx_translations
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.missing import missing
from tests.helpers.sharing import SharedRun, kept, made_once
from tests.helpers.ssh_server import Server, keys, lend_environment, needs_sshd, serve
from tests.helpers.tiny import (
    CLASSES,
    ROOT,
    SIDE,
    TINY_ARGS,
    TINY_MODEL,
    TINY_VIT,
    VIT_ARGS,
    MakeBundle,
    compile_all,
    model_files,
    tiny_labels,
    tiny_manifest,
    with_fitted_head,
)

# Every run tries the same few examples, so failures in CI can be reproduced. `--hypothesis-profile=search` looks for
# new ones.
settings.register_profile("quick", derandomize=True, max_examples=30, deadline=None, database=None)
settings.register_profile("search", max_examples=2000, deadline=None, database=None)
settings.load_profile("quick")
# Background jobs of a shell ignore SIGINT, and those of nohup SIGHUP; so would the processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Preparing photos of 12 megapixels would take a second of each run.
end_to_end.PHOTO = (400, 300)
# By default a tenth of the time goes into searching torch's many objects for cycles.
gc.set_threshold(100_000, 50, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shared", type=Path, metavar="FOLDER", help="share the tests with other processes through this folder"
    )
    parser.addoption(
        "--changed",
        metavar="COMMIT",
        help="only the tests that changes since this commit can break; with an empty one, since the upstream's",
    )
    parser.addoption(
        "--kills",
        type=int,
        metavar="N",
        default=0,
        help="pushes and rollbacks that are killed, and as many cut off, in tests/devices",
    )
    parser.addoption("--record", action="store_true", help="renew the texts in tests/data/same")


@pytest.hookimpl(trylast=True)  # when the terminal's plugin is there
def pytest_configure(config: pytest.Config) -> None:
    if folder := config.getoption("shared"):
        terminal = config.pluginmanager.getplugin("terminalreporter")
        config.pluginmanager.register(SharedRun(folder.absolute(), terminal))
    if (base := config.getoption("changed")) is not None:
        config.pluginmanager.register(Affected(base))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported by now; pytest itself searches everything else for cycles when it ends


def pytest_runtest_setup() -> None:
    keep_onnx_translations()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` next to the checkout. Tests skip where there is no `shared`."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.parent.is_dir():
        pytest.skip("needs the data sets in shared/data next to the checkout")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser. Without one, tests are skipped, or fail in CI."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        missing("needs chromium: apt-get install chromium")
    return browser


@pytest.fixture(scope="session")
def litertjs(shared_folder: Path) -> Path:
    """LiteRT.js, which npm downloads. Where npm can't, tests are skipped, or fail in CI."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder))
            runtime_files()

    try:
        cache = kept(shared_folder, "litertjs", make)
    except MissingExtraError as error:
        missing(str(error))
    return cache / "edgekit" / f"litertjs-{VERSION}"


@pytest.fixture(scope="session")
def sdist(shared_folder: Path) -> Path:
    """The source distribution of this checkout."""
    (made,) = made_once(shared_folder, "sdist", lambda folder: build(ROOT, "sdist", folder)).iterdir()
    return made


@pytest.fixture(scope="session")
def wheel(sdist: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist so that it can contain nothing that the sdist lacks."""

    def make(folder: Path) -> None:
        unpacked = tmp_path_factory.mktemp("unpacked")
        shutil.unpack_archive(sdist, unpacked, filter="data")
        (source,) = unpacked.iterdir()
        build(source, "wheel", folder)

    (made,) = made_once(shared_folder, "wheel", make).iterdir()
    return made


@pytest.fixture(scope="session")
def cli_python(wheel: Path, shared_folder: Path) -> Path:
    """The Python of an environment with the wheel and the extra `cli`, which was installed as the message says."""

    def make(folder: Path) -> None:
        install_as_printed(new_environment(folder / "env", wheel, lent=["pip"]), folder)

    return made_once(shared_folder, "cli_python", make) / "env" / "bin" / "python"


@pytest.fixture(scope="session")
def tiny_network() -> Any:
    """A torch network [1,3,32,32] -> [1,10] with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="session")
def tiny_models(tiny_network: Any, shared_folder: Path) -> Path:
    """A folder with the tiny network as model.onnx, model.xml with model.bin, model.tflite and model.pt2."""
    return kept(shared_folder, "tiny_models", lambda folder: compile_all(tiny_network, (1, 3, SIDE, SIDE), folder))


@pytest.fixture(scope="session")
def pixel_models(tiny_network: Any, shared_folder: Path) -> Path:
    """The same files of the network that takes the pixels of a crop, uint8 [1,32,32,3]."""
    from edgekit.compiler.graph import trace
    from edgekit.compiler.placement import take_pixels
    from edgekit.compiler.torch_compat import compiled

    def make(folder: Path) -> None:
        graph, half = trace(tiny_network, (1, 3, SIDE, SIDE)), (0.5, 0.5, 0.5)
        take_pixels(graph, half, half)
        compile_all(compiled(graph), (1, SIDE, SIDE, 3), folder, "uint8")

    return kept(shared_folder, "pixel_models", make)


@pytest.fixture(scope="session")
def tiny_golden(tiny_network: Any) -> Golden:
    """Three random images with torch's logits."""
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    batch = tiny_manifest().preprocessing.normalize(pixels)
    with torch.inference_mode():
        logits = tiny_network(torch.from_numpy(batch)).numpy()
    return Golden(pixels, logits, 1e-3)


@pytest.fixture
def make_bundle(tiny_models: Path, tiny_golden: Golden, tmp_path: Path, request: pytest.FixtureRequest) -> MakeBundle:
    """Function that writes a bundle of the tiny network: `make_bundle(target, name, golden, **manifest_changes)`.

    With dtype="uint8", the bundle takes pixels.
    """

    def make(target: str, name: str = "bundle", golden: Golden = tiny_golden, **changes: Any) -> Path:
        folder = tiny_models
        if changes.get("dtype") == "uint8":
            folder = request.getfixturevalue("pixel_models")
            changes |= {"layout": "NHWC", "input_shape": (1, SIDE, SIDE, 3)}
        files = model_files(target, folder)
        return write_bundle(tmp_path / name, files, tiny_manifest(target, **changes), tiny_labels(), golden).path

    return make


@pytest.fixture(scope="session")
def photos(shared_folder: Path) -> Path:
    """Ten class folders with four images each, which are all different."""

    def make(folder: Path) -> None:
        random = np.random.default_rng(7)
        for label in range(CLASSES):
            (folder / f"class_{label}").mkdir()
            for index in range(4):
                small = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
                small.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"class_{label}" / f"{index}.png")

    return kept(shared_folder, "photos", make)


@pytest.fixture(scope="session")
def tiny_images(tiny_network: Any, tiny_golden: Golden, photos: Path) -> EvaluationImages:
    """Six images, of which the tiny network classifies all but one as labelled, and its doubled logits for four."""
    import torch

    pixels = np.concatenate([tiny_golden.pixels, tiny_golden.pixels[:, ::-1]])
    normalized = (pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float32)
    with torch.inference_mode():
        logits = tiny_network(torch.from_numpy(normalized)).numpy()
    best = logits.argmax(1)
    hit = np.arange(6) > 0
    labels = np.where(hit, best, (best + 1) % 10)
    files = [path.read_bytes() for path in sorted(photos.glob("*/0.png"))]
    task = SingleLabel()
    return EvaluationImages(
        task, LabelledCrops(pixels, labels), task.kept(logits), files, "key of the images", logits=2 * logits[:4]
    )


@pytest.fixture(scope="session")
def tiny_convnext() -> Any:
    """The network of TINY_MODEL with seeded, non-trivial weights."""
    from edgekit.models.loading import load_network
    from edgekit.models.options import ModelOptions, parse_model_args

    return load_network(
        ModelOptions(
            "convnextv2_atto", weights="random", model_args=parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0
        ),
        seed=1,
    )


@pytest.fixture(scope="session")
def tiny_weights(tiny_convnext: Any, photos: Path, shared_folder: Path) -> Path:
    """A file with the weights of `tiny_convnext`, and a head that classifies `photos`."""
    from safetensors.torch import save_file

    name = "tiny.safetensors"

    def make(folder: Path) -> None:
        save_file(with_fitted_head(tiny_convnext, photos), folder / name)

    return kept(shared_folder, "weights", make) / name


@pytest.fixture(scope="session")
def vit_weights(photos: Path, shared_folder: Path) -> Path:
    """A file with weights of `TINY_VIT` that classify `photos`."""
    from safetensors.torch import save_file

    from edgekit.models.loading import load_network
    from edgekit.models.options import ModelOptions, parse_model_args

    name = "vit.safetensors"

    def make(folder: Path) -> None:
        options = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32, crop_pct=1.0)
        save_file(with_fitted_head(load_network(options, seed=1), photos), folder / name)

    return kept(shared_folder, "vit_weights", make) / name


def job_of(model: list[str], weights: Path, data: Path) -> list[str]:
    """Arguments of `edgekit deploy` without --output. No gate can fail: a model this small isn't faster in int8."""
    counts = ["--num-calibration-samples", "10", "--num-eval-samples", "20", "--iterations", "5", "--warmup", "1"]
    gates = ["--min-speedup", "0", "--max-drop", "100"]
    return [*model, "--weights", str(weights), "--data", str(data), "--threads", "1", *counts, *gates]


@pytest.fixture(scope="session")
def job_arguments(photos: Path, tiny_weights: Path) -> list[str]:
    """Arguments of `edgekit deploy` for the tiny ConvNeXt V2, without --output."""
    return job_of(TINY_MODEL, tiny_weights, photos)


@pytest.fixture(scope="session")
def vit_arguments(photos: Path, vit_weights: Path) -> list[str]:
    """Those of the tiny ViT, for jobs that the kind of network doesn't matter to."""
    return job_of(TINY_VIT, vit_weights, photos)


@pytest.fixture(scope="session")
def finished_run(job_arguments: list[str], shared_folder: Path) -> Path:
    """The folder of a run with every target. Copy it before you change it."""

    def make(folder: Path) -> None:
        with without_fresh_processes():
            assert main(["deploy", *job_arguments, "-o", str(folder / "run"), "--quiet", "--json"]) == 0

    return kept(shared_folder, "finished", make) / "run"


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a host key and a user key for the servers of `ssh_server`."""
    needs_sshd()
    return keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def board(tmp_path: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is in the devices file under the name `board`. Nothing was pushed to it before."""
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(tmp_path / "server", key_folder) as server:
        assert main(["devices", "add", "board", "ssh://device", "--ssh-config", str(server.config)]) == 0
        yield server


@pytest.fixture
def lent_board(board: Server) -> Server:
    """`board` with an environment for ONNX Runtime, as if it had been set up."""
    lend_environment(board, "onnx", "1.0")
    return board


@pytest.fixture
def pair(make_bundle: MakeBundle) -> list[Path]:
    """A float bundle, and one whose manifest claims int8."""
    return [
        make_bundle("onnx", f"a $(touch pwned) '{precision}'", precision=precision, fingerprint=precision)
        for precision in ("float", "int8")
    ]
