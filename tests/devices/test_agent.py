"""The agent's messages, tested with an agent process on this machine."""

import errno
import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import convert, structs

from edgekit.devices.agent import assemble, images_of
from edgekit.devices.messages import MeasureJob, SentImages
from edgekit.errors import BundleError, DeviceError, printable
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.settings import Timing
from edgekit.measure.tasks import TopClasses
from edgekit.report.row import Measurement
from edgekit.support.worker import Call, Outcome, SentError, decode, encode
from tests.helpers.failing_engine import MESSAGE, Phase
from tests.helpers.refusals import refuses
from tests.helpers.tiny import MakeBundle

HIDDEN = ("typer", "rich", "click", "torch", "timm", "nncf", "jinja2", "matplotlib", "platformdirs", "tomlkit",
          "filelock", "psutil", "packaging", "jsonschema", "distributed")  # fmt: skip
"""Packages that devices don't have."""
AGENT = [
    "-c",
    f"import sys; sys.modules.update(dict.fromkeys({HIDDEN})); from edgekit.devices import agent; agent.main()",
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Edgekit's folder on the device, with an empty store."""
    folder = tmp_path / "cache"
    (folder / "files").mkdir(parents=True)
    return folder


@pytest.fixture
def job(make_bundle: MakeBundle, cache: Path) -> MeasureJob:
    """A job whose files are already in the store."""
    bundles = {"it's": store(cache, make_bundle("onnx"))}
    timing = Timing(threads=1, warmup=1, iterations=3)
    return MeasureJob(name="pi", device_class="raspberry-pi-5", cache=str(cache), bundles=bundles, timing=timing)


def store(cache: Path, bundle: Path) -> dict[str, str]:
    """Put a bundle's files into the store. Returns their hashes by name."""
    return {path.name: store_bytes(cache, path.read_bytes()) for path in bundle.iterdir()}


def store_bytes(cache: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (cache / "files" / digest).write_bytes(content)
    return digest


def store_arrays(cache: Path, array: Any = None, **arrays: Any) -> str:
    file = io.BytesIO()
    np.save(file, array) if not arrays else np.savez(file, **arrays)
    return store_bytes(cache, file.getvalue())


@contextmanager
def started(arguments: list[str], job: MeasureJob) -> "Iterator[subprocess.Popen[bytes]]":
    """Start an agent and send it the job."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C"}
    pipe = subprocess.PIPE
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin
        process.stdin.write(encode(job))
        process.stdin.close()
        yield process


def run(job: MeasureJob, arguments: list[str] = AGENT) -> tuple[list[Call], Outcome, str]:
    """Run an agent. It must exit with 0 after its answer. Returns its calls, its answer and its stderr."""
    with started(arguments, job) as process:
        assert process.stdout
        assert process.stderr
        *calls, answer = map(message_of, process.stdout)
        errors = process.stderr.read().decode()
    assert process.returncode == 0, errors
    assert isinstance(answer, Outcome)
    return [call for call in calls if isinstance(call, Call)], answer, errors


def message_of(line: bytes) -> Call | Outcome:
    message = decode(line)
    assert message is not None, line
    return message


def measured_by(job: MeasureJob, arguments: list[str] = AGENT) -> tuple[list[Measurement], list[str]]:
    """Run an agent. Returns the measurements, which are its answer, and the warnings."""
    calls, answer, _ = run(job, arguments)
    rows = convert(answer.value, list[Measurement])
    assert len(rows) == len(job.bundles)
    return rows, [call.args[0] for call in calls if call.name == "warn"]


def error_of(answer: Outcome) -> SentError:
    assert answer.error is not None
    return answer.error


def test_calls_then_the_answer(job: MeasureJob, cache: Path) -> None:
    calls, answer, _ = run(job)
    (row,) = convert(answer.value, list[Measurement])
    assert row.failure is None
    assert row.bundle == "it's"
    assert row.latency_ms is not None
    assert row.latency_ms.count == 3
    assert (row.device.name, row.device.device_class) == ("pi", "raspberry-pi-5")
    assert Call("stage", ("it's: time", 4)) in calls
    assert {file.name for file in cache.iterdir()} == {"files", "runtimes", "measuring"}


def broken_agent(owner: str, name: str) -> list[str]:
    """Arguments of an agent in which a function of edgekit has a bug."""
    return ["-c", f"import {owner} as owner; owner.{name} = lambda *_: {{}}['val']; {AGENT[-1]}"]


def test_a_bug_costs_its_row_and_its_traceback_reaches_the_host(job: MeasureJob) -> None:
    calls, answer, _ = run(job, broken_agent("edgekit.measure.bundles", "summarize_profile"))
    ((what, kind, _, traceback),) = (call.args for call in calls if call.name == "bug")
    assert (what, kind) == ("it's", "KeyError")
    assert "Traceback (most recent call last)" in traceback
    (row,) = convert(answer.value, list[Measurement])
    assert row.failure is not None
    assert (row.failure.stage, row.failure.error) == ("bug in edgekit", "KeyError")


def test_a_bug_outside_of_the_rows_ends_the_job_as_one(job: MeasureJob) -> None:
    failed = error_of(run(job, broken_agent("edgekit.measure.machine", "describe"))[1])
    assert (failed.error, failed.bug) == ("KeyError", True)
    assert "Traceback (most recent call last)" in failed.traceback


def test_a_damaged_file_is_an_error(job: MeasureJob, cache: Path) -> None:
    """It has its size, as after a bad block of an SD card. The same command then sends it again."""
    file = cache / "files" / job.bundles["it's"]["labels.txt"]
    file.write_bytes(bytes(file.stat().st_size))
    _, answer, errors = run(job)
    failed = error_of(answer)
    assert (failed.error, failed.fix, failed.bug) == ("DeviceError", "Run the same command again", False)
    assert "'labels.txt' was damaged" in failed.problem
    assert errors == ""
    assert not file.exists()


def test_messages_name_the_bundle(job: MeasureJob, cache: Path) -> None:
    """Messages use the host's name of the bundle, even if it is no valid folder name or not UTF-8."""
    files = dict(job.bundles["it's"])
    manifest = json.loads((cache / "files" / files["manifest.json"]).read_text())
    broken = files | {"model.onnx": store_bytes(cache, b"no model")}
    manifest["files"]["model.onnx"] = {"sha256": broken["model.onnx"], "size_bytes": 8}
    broken["manifest.json"] = store_bytes(cache, json.dumps(manifest).encode())
    names = ["runs/$(touch pwned)", "..", "b\udcffse/it is"]
    measured, warnings = measured_by(
        structs.replace(job, bundles=dict(zip(names, [broken, files, files], strict=True)))
    )
    assert [row.bundle for row in measured] == list(map(printable, names))
    refused, *others = measured
    assert refused.failure is not None
    assert (refused.failure.stage, refused.failure.error) == ("benchmark", "EngineError")
    assert "'$(touch pwned)'" in refused.failure.message
    assert [row.failure for row in others] == [None, None]
    assert warnings == [f"{names[0]}: {refused.failure.message}"]


def failing_agent(target: str, bundle: str, phase: Phase, computed_in: str = "f32") -> list[str]:
    """The command of an agent whose engine fails while it is timed."""
    code = f"""
from edgekit.devices import agent
from edgekit.runtime.openvino import engine
from tests.helpers.failing_engine import failing_engine
engine.Engine.low_precision_float = lambda self: "bf16"
with failing_engine({target!r}, {bundle!r}, {phase!r}, {computed_in!r}):
    agent.main()
"""
    return ["-c", code]


@pytest.fixture
def two_bundles(job: MeasureJob, cache: Path, make_bundle: MakeBundle) -> MeasureJob:
    """A job of `edgekit benchmark` with float and INT8."""
    names = {precision: f"openvino-{precision}" for precision in ("float", "int8")}
    bundles = {
        name: store(cache, make_bundle("openvino", name, precision=precision)) for precision, name in names.items()
    }
    return structs.replace(job, bundles=bundles)


@pytest.fixture
def with_images(two_bundles: MeasureJob, cache: Path, tiny_images: EvaluationImages, tmp_path: Path) -> MeasureJob:
    """A job of `edgekit deploy` with the same bundles and images to evaluate on."""
    assert tiny_images.logits is not None
    sent = SentImages(
        pixels=store_arrays(cache, tiny_images.crops.pixels),
        reference=store_arrays(
            cache, labels=tiny_images.crops.labels, logits=tiny_images.logits, **tiny_images.reference.arrays()
        ),
        files=tuple(store_bytes(cache, file) for file in tiny_images.files[:2]),
    )
    return structs.replace(two_bundles, images=sent)


def test_an_engine_that_fails_while_it_is_timed_loses_only_its_own_row(two_bundles: MeasureJob) -> None:
    measured, warnings = measured_by(two_bundles, failing_agent("openvino", "openvino-float", "model alone"))
    float_, int8 = measured
    assert float_.failure is not None
    assert (float_.failure.stage, float_.failure.error) == ("benchmark", "EngineError")
    assert MESSAGE in float_.failure.message
    assert int8.failure is None
    assert int8.latency_ms is not None
    assert int8.latency_ms.count == 3
    (warning,) = warnings
    assert warning.startswith("openvino-float: ")


def test_an_engine_that_fails_end_to_end_loses_only_its_own_row(with_images: MeasureJob) -> None:
    measured, _ = measured_by(with_images, failing_agent("openvino", "openvino-int8", "end to end"))
    float_, int8 = measured
    assert int8.failure is not None
    assert (int8.failure.stage, int8.failure.error) == ("benchmark", "EngineError")
    assert float_.failure is None
    assert float_.end_to_end_ms is not None
    assert float_.low_precision is not None
    assert float_.low_precision.computes_in == "bf16"


def test_a_device_sends_its_profile_and_the_names_of_changed_images(with_images: MeasureJob, cache: Path) -> None:
    assert with_images.images is not None
    reference = dict(np.load(cache / "files" / with_images.images.reference))
    reference["classes"][2, 0] = (reference["classes"][2, 0] + 1) % 10
    names = tuple(f"{index}.png" for index in range(len(reference["classes"])))
    sent = replace(with_images.images, reference=store_arrays(cache, **reference), names=names)
    job = structs.replace(with_images, images=sent)
    rows, _ = measured_by(job)
    for row in rows:
        assert row.profile is not None
        assert row.profile.kinds
        assert row.snr_db == pytest.approx(20 * np.log10(2), abs=1e-3)
        assert row.accuracy is not None
        assert [change.examples[0].image for change in row.accuracy.changes or ()] == ["2.png"]


def test_an_engine_that_fails_in_bf16_loses_only_that_figure(with_images: MeasureJob) -> None:
    measured, warnings = measured_by(with_images, failing_agent("openvino", "openvino-float", "model alone", "bf16"))
    float_, int8 = measured
    assert [row.failure for row in measured] == [None, None]
    assert float_.accuracy is not None
    assert float_.accuracy.top1 == pytest.approx(5 / 6)
    assert float_.low_precision is None
    assert int8.speedup is not None
    assert int8.speedup.baseline == "openvino-float"
    (warning,) = warnings
    assert warning.startswith("openvino-float in bf16: ")


def test_parts(job: MeasureJob, cache: Path, tmp_path: Path) -> None:
    files = job.bundles["it's"]
    assert assemble(files, cache / "files", tmp_path / "one").manifest.target == "onnx"
    without = {name: digest for name, digest in files.items() if name != "golden.npz"}
    with pytest.raises(BundleError):
        assemble(without, cache / "files", tmp_path / "two")
    arrays = {"labels": [1, 1], "classes": [[1, 2], [2, 1]], "confidence": [0.75, 0.5]}
    sent = SentImages(
        pixels=store_arrays(cache, np.zeros((2, 4, 4, 3), np.uint8)),
        reference=store_arrays(cache, **arrays),
        files=(store_bytes(cache, b"x"),),
    )
    for digest, name in ((sent.pixels, "pixels.npy"), (sent.reference, "reference.npz"), (sent.files[0], "image")):
        file = cache / "files" / digest
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"?")
        with refuses(DeviceError, f"'{name}' was damaged"):
            images_of(sent, cache / "files")
        file.write_bytes(content)
    images = images_of(sent, cache / "files")
    assert (images.crops.pixels.shape, images.crops.labels.tolist()) == ((2, 4, 4, 3), [1, 1])
    assert images.files == [b"x"]
    assert isinstance(images.reference, TopClasses)
    assert images.reference.best.tolist() == [1, 2]
    assert images.reference.confidence.tolist() == [0.75, 0.5]


def test_a_file_that_another_run_deleted_is_an_error_of_the_device(
    job: MeasureJob, cache: Path, tmp_path: Path
) -> None:
    files = job.bundles["it's"]
    (cache / "files" / files["labels.txt"]).unlink()
    with refuses(DeviceError, "'labels.txt'"):
        assemble(files, cache / "files", tmp_path / "assembled")


def test_a_file_system_without_hard_links(
    job: MeasureJob, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert assemble(job.bundles["it's"], cache / "files", tmp_path / "copied").manifest.target == "onnx"


def test_one_measurement_at_a_time(job: MeasureJob, cache: Path) -> None:
    (cache / "work-of-one-that-was-killed").mkdir()
    (cache / "measuring").touch()
    with (cache / "measuring").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with started(AGENT, job) as process:
            assert process.stdout
            waiting = Call("stage", ("wait for another measurement on the device", None))
            assert message_of(process.stdout.readline()) == waiting
            fcntl.flock(held, fcntl.LOCK_UN)
            *_, last = map(message_of, process.stdout)
    assert isinstance(last, Outcome)
    assert last.error is None
    assert not list(cache.glob("work-*"))


ON_A_DEVICE = {"numpy", "PIL", "msgspec"}


def third_party_imports(module: str, *hidden: str) -> set[str]:
    """Packages that a module imports if neither `hidden` nor the packages that a device lacks are available."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({(*HIDDEN, *hidden)}))
before = set(sys.modules)
import {module}
packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(packages - set(sys.stdlib_module_names) - {{"edgekit"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_agent_needs_nothing_that_a_device_lacks() -> None:
    packages = third_party_imports("edgekit.devices.agent")
    assert packages >= ON_A_DEVICE
    assert packages <= ON_A_DEVICE | {"typing_extensions"}, "msgspec imports typing_extensions if it is installed"


def test_the_sdk_needs_no_msgspec() -> None:
    assert third_party_imports("edgekit.runtime", "msgspec") == {"numpy", "PIL"}
