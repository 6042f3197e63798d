"""The examples for apps: each runs, and gives the SDK's labels on the same images."""

import ast
import http.client
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.images.preprocess import Preprocessing
from tests.docs.blocks import run_bash
from tests.helpers.environments import PIP, run
from tests.helpers.missing import missing
from tests.helpers.tiny import ROOT, SIDE, MakeBundle

EXAMPLES = ROOT / "docs/examples"
LONGEST_S = 120
CV2 = """
import numpy as np

CAP_PROP_BUFFERSIZE = 38

class VideoCapture:
    def __init__(self, source):
        assert source in (0, "frames.npy"), source
        try:
            self.frames = list(np.load("frames.npy"))
        except FileNotFoundError:
            self.frames = None
    def isOpened(self):
        return self.frames is not None
    def set(self, name, value):
        assert (name, value) == (CAP_PROP_BUFFERSIZE, 1)
    def read(self):
        return (True, self.frames.pop(0)[:, :, ::-1].copy()) if self.frames else (False, None)
    def release(self):
        open("end", "a").write("released")
"""
"""A stand-in for OpenCV, whose camera 0 shows the frames of a file."""
PICAMERA2 = """
import os
import numpy as np

class Picamera2:
    @staticmethod
    def global_camera_info():
        return [{"Num": 0}] if os.path.exists("frames.npy") else []
    def __enter__(self):
        return self
    def __exit__(self, *error):
        open("end", "a").write("closed")
    def create_preview_configuration(self, main):
        return main
    def configure(self, main):
        assert main["format"] == "BGR888"
        self.frames = list(np.load("frames.npy"))
    def start(self):
        pass
    def capture_array(self):
        if not self.frames:
            raise KeyboardInterrupt
        return self.frames.pop(0)
"""
"""A stand-in for picamera2, whose user presses Ctrl-C after the last frame of a file."""

USEARCH = """
import numpy as np

class Index:
    def __init__(self, ndim, metric, dtype):
        assert (metric, dtype) == ("cos", "f32")
        self.shape = (-1, ndim)
    def add(self, keys, vectors):
        self.keys, self.vectors = keys, vectors.reshape(self.shape)
    def search(self, query, count):
        print("in the index")
        distances = 1 - self.vectors @ query
        order = np.argsort(distances)[:count]
        return type("Matches", (), {"keys": self.keys[order].astype(np.uint64), "distances": distances[order]})
"""
"""A stand-in for usearch."""


def command(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """The environment of an example: it imports edgekit, and before that what the folder has."""
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "OMP_NUM_THREADS": "1"}


def run_example(folder: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    done.stderr = done.stderr.replace("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n", "")
    return done


def random_frames(count: int) -> list[Image.Image]:
    random = np.random.default_rng(5)
    small = random.integers(0, 256, (count, 4, 6, 3), np.uint8)
    return [Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC) for pixels in small]


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle("tflite")


def labels_of(bundle: Path, images: list[Image.Image]) -> list[str]:
    with edgekit.load(bundle) as session:
        labels = [session.classify(image, top=1)[0][0] for image in images]
    assert len(set(labels)) > 1
    return labels


@pytest.mark.parametrize(
    ("module", "code", "arguments", "end"),
    [
        ("cv2", CV2, ["--camera", "frames.npy"], "released"),
        ("cv2", CV2, [], "released"),
        ("picamera2", PICAMERA2, ["--picamera"], "closed"),
    ],
)
def test_the_camera_loop_prints_each_change_of_the_label(
    module: str, code: str, arguments: list[str], end: str, bundle: Path, tmp_path: Path
) -> None:
    frames = random_frames(12)
    np.save(tmp_path / "frames.npy", np.stack([np.asarray(frame) for frame in frames]))
    (tmp_path / f"{module}.py").write_text(code)
    done = run_example(tmp_path, "camera.py", bundle, *arguments)
    shown = [line.rpartition(" ")[0] for line in done.stdout.splitlines()]
    assert shown == [label for label, _ in groupby(labels_of(bundle, frames))]
    assert (tmp_path / "end").read_text() == end
    unplugged = "The camera gave no more frames after 12. Check its cable, then start again.\n"
    rate, *others = done.stderr.splitlines(keepends=True)
    assert re.fullmatch(r"\d+\.\d frames per second\n", rate)
    assert (done.returncode, others) == ((0, []) if arguments else (1, [unplugged]))


def test_the_service_starts_the_camera_loop_with_a_bundle_in_the_home(bundle: Path, tmp_path: Path) -> None:
    unit = ConfigParser(interpolation=None)
    unit.read(EXAMPLES / "edgekit-camera.service")
    frames = random_frames(3)
    np.save(tmp_path / "frames.npy", np.stack([np.asarray(frame) for frame in frames]))
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    for path, target in (("edgekit/bin/python", sys.executable), ("camera.py", EXAMPLES / "camera.py")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(target)
    (tmp_path / "tflite-int8").symlink_to(bundle)
    words = unit["Service"]["ExecStart"].replace("%h", str(tmp_path)).split()
    words[0] = os.readlink(words[0])  # a link to an environment's Python would start without the environment
    subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=True)
    assert (tmp_path / "end").read_text() == "closed"


@pytest.mark.parametrize(
    ("module", "code", "arguments", "problem"),
    [
        ("cv2", CV2, [], "'0' is no camera or video."),
        ("cv2", "raise ModuleNotFoundError(name='cv2')", [], "cv2 is not installed."),
        ("picamera2", PICAMERA2, ["--picamera"], "This Raspberry Pi has no camera."),
    ],
)
def test_without_a_camera_the_loop_says_so(
    module: str, code: str, arguments: list[str], problem: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text(code)
    done = run_example(tmp_path, "camera.py", bundle, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(problem)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["camera.py", "watch_folder.py", "service.py"])
def test_what_is_no_bundle_is_one_line_without_a_traceback(name: str, tmp_path: Path) -> None:
    done = run_example(tmp_path, name, tmp_path / "none", *([tmp_path] if name == "watch_folder.py" else []))
    assert done.returncode == 1
    assert done.stderr == f"'{tmp_path}/none' doesn't exist. Valid: the folder of a bundle\n"


def write_images(folder: Path, images: list[Image.Image]) -> None:
    folder.mkdir()
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")


def test_what_is_in_a_folder_is_classified_once(bundle: Path, tmp_path: Path) -> None:
    images = random_frames(5)
    write_images(tmp_path / "inbox", images)
    (tmp_path / "inbox/note.txt").write_text("no image")
    (tmp_path / "inbox/.hidden").touch()
    done = run_example(tmp_path, "watch_folder.py", bundle, tmp_path / "inbox", "--once")
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [row[0] for row in rows] == [str(tmp_path / f"inbox/{index}.png") for index in range(5)]
    assert [row[1] for row in rows] == labels_of(bundle, images)
    assert done.stderr.startswith(f"skipped: '{tmp_path}/inbox/note.txt' is not an image of a known format")


def test_an_image_that_appears_in_a_folder_is_classified(bundle: Path, tmp_path: Path) -> None:
    first, second, *others = random_frames(6)
    write_images(tmp_path / "inbox", [first])
    labels = labels_of(bundle, [first, second, *others])
    process = subprocess.Popen(
        command("watch_folder.py", bundle, tmp_path / "inbox", "--interval", "0.1"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for name, label in (("0.png", labels[0]), ("late.png", labels[1])):
            assert process.stdout.readline().split(",")[:2] == [str(tmp_path / "inbox" / name), label]
            second.save(tmp_path / "inbox/late.png")
    finally:
        process.terminate()
        process.communicate(timeout=LONGEST_S)


def test_the_watcher_waits_until_a_file_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_files = runpy.run_path(str(EXAMPLES / "watch_folder.py"))["new_files"]
    late, naps = tmp_path / "late.png", []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) <= 3 or len(naps) == 6:
            with late.open("ab") as file:
                file.write(b"a part of an image")

    monkeypatch.setattr(time, "sleep", sleep)
    files = new_files(tmp_path, 1.0, False)
    assert (next(files), len(naps)) == (late, 4)
    assert (next(files), len(naps)) == (late, 7), "a file that was changed is new"


def test_a_folder_that_does_not_exist_is_named(bundle: Path, tmp_path: Path) -> None:
    done = run_example(tmp_path, "watch_folder.py", bundle, tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"There is no folder '{tmp_path}/none'. Create it, or give another one.\n"


@contextmanager
def served(bundle: Path, folder: Path) -> Iterator[int]:
    """The port of a service."""
    process = subprocess.Popen(
        command("service.py", bundle, "--port", "0"),
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), process.communicate()[1]
        yield int(line.rpartition(":")[2])
    finally:
        process.terminate()
        errors = process.communicate(timeout=LONGEST_S)[1]
    assert process.returncode == 0, errors  # as `docker stop` ends it
    assert "Traceback" not in errors


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_S)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_the_service_gives_the_labels_and_scores_of_the_sdk(bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", random_frames(5))
    paths = sorted((tmp_path / "images").iterdir())
    with served(bundle, tmp_path) as port, edgekit.load(bundle) as session:
        assert ask(port, "GET", "/health") == (200, {"status": "ok"})
        for path in paths:
            labels = [{"label": label, "score": pytest.approx(score)} for label, score in session.classify(path)]
            assert ask(port, "POST", "/classify", path.read_bytes()) == (200, {"labels": labels})


CROPPED = Preprocessing(SIDE, SIDE, "bilinear", 0.5, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""The preprocessing of the tiny network, but for the crop: the test vectors, which are cropped already, still fit."""


def test_the_service_follows_a_switch_of_the_bundle(make_bundle: MakeBundle, tmp_path: Path) -> None:
    write_images(tmp_path / "images", random_frames(1))
    image = tmp_path / "images/0.png"
    one, two = make_bundle("tflite", "one"), make_bundle("tflite", "two", preprocessing=CROPPED)
    link, draft = tmp_path / "current", tmp_path / "draft"
    link.symlink_to(one)
    with served(link, tmp_path) as port:
        answers = []
        for path in (one, two):
            draft.symlink_to(path)
            draft.replace(link)
            with edgekit.load(path) as session:
                labels = [{"label": label, "score": pytest.approx(score)} for label, score in session.classify(image)]
            answers.append(ask(port, "POST", "/classify", image.read_bytes()))
            assert answers[-1] == (200, {"labels": labels})
    assert answers[0] != answers[1]


def test_the_service_says_what_is_wrong_with_a_request(bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", random_frames(1))
    half = (tmp_path / "images/0.png").read_bytes()[:400]
    with served(bundle, tmp_path) as port:
        for body, reason in ((b"no image", "'8 bytes' is not an image"), (half, "can't decode image '400 bytes'")):
            status, answer = ask(port, "POST", "/classify", body)
            assert status == 400
            assert str(answer["error"]).startswith(reason)
        for method, path in (("GET", "/"), ("POST", "/")):
            status, answer = ask(port, method, path)
            assert (status, "/classify" in str(answer["error"])) == (404, True)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_S)
        for length, expected in (("1000000000", 413), ("many", 411)):
            connection.putrequest("POST", "/classify")
            connection.putheader("Content-Length", length)
            connection.endheaders()
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["error"].count(length)) == (expected, 1)
            connection.close()


def test_a_port_that_is_in_use_is_named(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path) as port:
        done = run_example(tmp_path, "service.py", bundle, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"Can't listen on 127.0.0.1:{port}: Address already in use. Choose another --port.\n"


@pytest.fixture(params=["normalize", "none"])
def vectors(request: pytest.FixtureRequest, make_bundle: MakeBundle) -> Path:
    return make_bundle("onnx", "vectors", task="embedding", activation=request.param)


def test_a_search_prints_the_nearest_images_and_embeds_only_new_ones(vectors: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for index, image in enumerate(random_frames(6)):
        image.save(images / ("more" if index > 3 else ".") / f"{index}.png")
    (images / "text.txt").write_text("no image")
    done = run_example(tmp_path, "search.py", vectors, images, images / "2.png", images / "more/5.png", "--top", "3")
    lines = [line.split(",") for line in done.stdout.splitlines()]
    with edgekit.load(vectors) as session:
        rows = {path.relative_to(images).as_posix(): session.embed(path) for path in images.rglob("*.png")}
    units = {name: row / np.linalg.norm(row) for name, row in rows.items()}
    for query, found in (("2.png", lines[:3]), ("more/5.png", lines[3:])):
        cosines = sorted(((float(units[query] @ row), name) for name, row in units.items()), reverse=True)[:3]
        assert found == [[str(images / query), name, f"{cosine:.4f}"] for cosine, name in cosines]
    assert "text.txt" in done.stderr
    with np.load(tmp_path / "vectors.npz") as stored:
        places = {state.partition("\t")[0]: place for place, state in enumerate(stored["states"])}
        changed = dict(stored)
    changed["vectors"][places["0.png"]] = changed["vectors"][places["2.png"]]  # would be seen if it weren't used
    np.savez(tmp_path / "vectors.npz", **changed)
    random_frames(7)[6].save(images / "new.png")
    once_more = run_example(tmp_path, "search.py", vectors, images, images / "2.png", "--top", "7")
    found = [line.split(",")[1:] for line in once_more.stdout.splitlines()]
    assert found[:2] == [["0.png", "1.0000"], ["2.png", "1.0000"]]
    assert "new.png" in [name for name, _ in found]


def test_a_search_that_is_interrupted_keeps_the_vectors_that_it_had(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_folder, store = (
        runpy.run_path(str(EXAMPLES / "search.py"))["embed_folder"],
        tmp_path / "vectors.npz",
    )
    images = tmp_path / "images"
    images.mkdir()

    def interrupted(place: Path | IO[bytes], **_: object) -> None:
        with place.open("wb") if isinstance(place, Path) else place as file:
            file.write(b"half of a store")
        raise KeyboardInterrupt

    with edgekit.load(vectors) as session:
        for index, image in enumerate(random_frames(2)):
            image.save(images / f"{index}.png")
            with monkeypatch.context() as patch:
                if index:
                    patch.setattr(np, "savez", interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        embed_folder(session, images, store)
            names, _ = embed_folder(session, images, store)
            assert names == [f"{number}.png" for number in range(index + 1)]


def test_a_search_in_an_index_finds_the_same_images(vectors: Path, tmp_path: Path) -> None:
    for index, image in enumerate(random_frames(6)):
        image.save(tmp_path / f"{index}.png")
    search = ("search.py", vectors, tmp_path, tmp_path / "3.png", "--store", tmp_path.parent / "vectors.npz")
    brute = run_example(tmp_path, *search)
    missing = run_example(tmp_path, *search, "--usearch")
    assert (missing.returncode, "usearch is not installed" in missing.stderr) == (1, True)
    (tmp_path / "usearch").mkdir()
    (tmp_path / "usearch/index.py").write_text(USEARCH)
    indexed = run_example(tmp_path, *search, "--usearch")
    assert indexed.stdout == f"in the index\n{brute.stdout}"


def test_a_search_refuses_a_classifier_and_a_folder_without_images(bundle: Path, vectors: Path, tmp_path: Path) -> None:
    random_frames(1)[0].save(tmp_path / "0.png")
    (tmp_path / "empty").mkdir()
    for arguments, problem in (((bundle, tmp_path), "classes"), ((vectors, tmp_path / "empty"), "has no image")):
        done = run_example(tmp_path, "search.py", *arguments, tmp_path / "0.png")
        assert (done.returncode, problem in done.stderr, done.stdout) == (1, True, "")


def compiler() -> str:
    """The folder of OpenVINO's wheel. Without a C++ compiler, or headers in the wheel, the test skips."""
    import openvino

    folder = Path(openvino.__file__).parent
    lacks = [
        name
        for name, there in (
            ("g++", shutil.which("g++")),
            ("the headers in OpenVINO's wheel", (folder / "include/openvino/openvino.hpp").exists()),
            ("libopenvino.so in OpenVINO's wheel", list(folder.glob("libs/libopenvino.so*"))),
        )
        if not there
    ]
    if lacks:
        missing(f"needs {' and '.join(lacks)}")
    return str(folder)


def compiled(folder: Path, beside: str | None = None) -> Path:
    """The program that the guide's command compiles. A program `beside` it is compiled instead, and may include it."""
    compiler()
    shutil.copy(EXAMPLES / "classify.cpp", folder)
    page = (ROOT / "docs/how-to/cpp.md").read_text()
    (build,) = (block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "g++" in block)
    if beside is not None:
        (folder / "beside.cpp").write_text(beside)
        build = build.replace(" classify.cpp ", " beside.cpp ")
    run_bash(build, folder)
    return folder / "classify"


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cpp"))


def preprocessing(interpolation: str, crop_pct: float, crop_mode: str, margin: float | None = None) -> Preprocessing:
    return Preprocessing(SIDE, SIDE, interpolation, crop_pct, crop_mode, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), margin)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    "rules",
    [
        ("bilinear", 1.0, "center", None),
        ("bicubic", 0.875, "center", None),
        ("bicubic", 0.9, "squash", None),
        ("bicubic", 0.875, "center", 2.0),
        ("bilinear", 1.0, "center", 1.0),
    ],
)
def test_the_program_in_cpp_gives_the_labels_and_scores_of_the_sdk(
    rules: tuple[str, float, str, float | None], dtype: str, classify: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = make_bundle("openvino", preprocessing=preprocessing(*rules), dtype=dtype)
    images = random_frames(5)
    images[1:3] = [images[1].resize((300, 211)), images[2].resize((21, 35))]
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.ppm")
    names = [str(tmp_path / f"{index}.ppm") for index in range(5)]
    done = subprocess.run([classify, path, *names], capture_output=True, text=True, timeout=LONGEST_S)
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    with edgekit.load(path) as session:
        best = [session.classify(image, top=1)[0] for image in images]
    assert [label for label, _, _ in lines] == [label for label, _ in best], done.stderr
    scores = [score for _, score in best]
    assert len({round(score, 6) for score in scores}) == 5
    assert [float(score) for _, _, score in lines] == pytest.approx(scores, abs=2e-6)


@pytest.mark.slow
def test_the_program_in_cpp_refuses_what_it_does_not_have(
    classify: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = make_bundle("openvino", preprocessing=preprocessing("lanczos", 1.0, "center"))
    random_frames(1)[0].save(tmp_path / "0.ppm")
    (tmp_path / "text.ppm").write_text("no image")
    for image, problem in (("0.ppm", "lanczos"), ("text.ppm", "is not a PPM"), ("none.ppm", "can't open")):
        done = subprocess.run([classify, path, tmp_path / image], capture_output=True, text=True, timeout=LONGEST_S)
        assert (done.returncode, problem in done.stderr) == (1, True)
    several = make_bundle("openvino", "several", task="multi-label", activation="sigmoid")
    done = subprocess.run([classify, several, tmp_path / "0.ppm"], capture_output=True, text=True, timeout=LONGEST_S)
    assert (done.returncode, "softmax" in done.stderr) == (1, True)


@pytest.mark.slow
def test_the_dockerfile_installs_what_the_service_imports(wheel: Path, tmp_path: Path) -> None:
    """Docker isn't needed: pip resolves the Dockerfile's requirement with the packages that are installed here."""
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    assert len(lines) <= 20
    (install,) = (line.removeprefix("RUN pip install ") for line in lines if line.startswith("RUN "))
    assert install == '--no-cache-dir "$(ls /wheels/*.whl)[tflite]"'
    (tmp_path / "wheels").mkdir()
    copy = shutil.copy(wheel, tmp_path / "wheels")
    done = run(*PIP, "install", "--dry-run", "--no-index", f"{copy}[tflite]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Requirement already satisfied: ai-edge-litert\b", done.stdout)
    copied = re.findall(r"^COPY (?:--chown=\w+ )?(\S+) (\S+)$", "\n".join(lines), re.MULTILINE)
    assert copied == [("dist/*.whl", "/wheels/"), ("docs/examples/service.py", "/service.py"), ("${BUNDLE}", "/bundle")]
    assert lines[-1] == 'ENTRYPOINT ["python", "/service.py", "/bundle", "--host", "0.0.0.0"]'
    tree = ast.parse((EXAMPLES / "service.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"edgekit"}
