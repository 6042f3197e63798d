"""Bundles on emulated Raspberry Pis: two releases of Debian, two cores, three runtimes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pilib import debian
from benchmarks.pilib.debian import PYTHONS
from edgekit.cli.main import main
from edgekit.config.runtimes import PRECISIONS
from edgekit.devices.remote import open_board
from edgekit.devices.scripts.environment import unpack
from edgekit.devices.setup import fetch_wheels, probe
from edgekit.devices.transport import connect
from edgekit.models.demo import assets
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.emulated import (
    MODELS,
    Emulated,
    compile_installed,
    make_root,
    require_emulation,
    serve_emulated,
    write_vcgencmd,
)
from tests.helpers.pmic import IDLE_W, LOAD_W, fake_pmic
from tests.helpers.tiny import ROOT

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs/how-to/raspberry-pi.md"
BOARDS = {f"{suite}-{core}": (suite, core) for suite, core in zip(PYTHONS, MODELS, strict=True)}
"""Two boards cover every release and every core. More would take minutes each under QEMU."""
FIRST, SECOND = BOARDS
FIRST_TARGET, SECOND_TARGET = "onnx", "tflite"
"""The runtime of each board whose float and INT8 are measured. OpenVINO's takes minutes under QEMU: INT8 alone."""
TARGETS = {FIRST: (FIRST_TARGET, "openvino"), SECOND: (SECOND_TARGET,)}

OF_THIS_MACHINE = re.compile(r"((?:load|free memory|free disk):|processor: .*,) [\d.]+")
"""What an emulated board has of the machine that emulates it."""


@pytest.fixture(scope="module")
def boards(
    finished_run: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Emulated]]:
    """The boards by name, each with the environments of its runtimes."""
    require_emulation()
    folder = tmp_path_factory.mktemp("emulated")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_DEVICES_FILE", str(folder / "devices.toml"))
        servers = {}
        for name, (suite, core) in BOARDS.items():
            root = make_root(suite, folder)
            stack.callback(shutil.rmtree, root)
            servers[name] = stack.enter_context(serve_emulated(root, core, folder / name, key_folder))
            assert main(["devices", "add", name, "ssh://device", "--ssh-config", str(servers[name].config)]) == 0
            for target in TARGETS[name]:
                minimum = read_bundle(finished_run / f"{target}-int8").manifest.engine["minimum"]
                with open_board(servers[name].device(name), Reporter(quiet=True)) as board:
                    board.environment(target, minimum)
            compile_installed(servers[name], suite)
        yield servers


def run_cli(arguments: list[str]) -> Any:
    """Run an edgekit command in a separate process. It must succeed. Returns its JSON document."""
    done = subprocess.run([sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def deployed(
    finished_run: Path, job_arguments: list[str], boards: dict[str, Emulated], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of a job here and on the first board, a Raspberry Pi 5 with a power sensor."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("deployed") / "run")
    write_vcgencmd(boards[FIRST].root, fake_pmic(Path("/usr/local/bin/answers-$PPID")))
    where = ["--target", FIRST_TARGET, "--device", "local"]
    few = ["--num-eval-samples", "10", "--iterations", "2", "--warmup", "0"]
    assert main(["deploy", *job_arguments, *where, "--device", FIRST, *few, "-o", str(run)]) == 0
    return run


def test_deploy_here_and_on_a_board(deployed: Path) -> None:
    report = load_report(deployed)
    assert [row.device.name for row in report.results] == ["local"] * 2 + [FIRST] * 2
    assert {row.verdict for row in report.results} <= {"pass", "inconclusive"}
    for here, there in zip(report.results[:2], report.results[2:], strict=True):
        assert there.bundle == here.bundle
        assert there.device.emulated is True
        assert there.device.device_class == "raspberry-pi-5"
        assert there.device.system is not None
        assert "aarch64" in there.device.system
        assert here.accuracy is not None
        assert there.accuracy is not None
        # 0.1 is one of 10 images: kernels of different processors may change the class of one.
        assert abs(there.accuracy.value - here.accuracy.value) <= 0.1
        assert abs(there.accuracy.agreement - here.accuracy.agreement) <= 0.1
        assert there.peak_rss_bytes is not None
        assert there.peak_rss_bytes > 20e6
    assert report.recommendation.device == "local"
    (other,) = report.recommendation.others
    assert (other.device, other.bundle) == (FIRST, None)
    assert "emulated under QEMU" in other.why
    page = (deployed / "report.html").read_text()
    assert f"Emulated by QEMU: {FIRST}." in page
    assert f"{FIRST} (emulated)" in page


def test_energy_on_a_pi_5(deployed: Path) -> None:
    rows = [row for row in load_report(deployed).results if row.device.name == FIRST]
    assert len(rows) == len(PRECISIONS)
    for row in rows:
        energy = row.energy
        assert energy is not None
        assert (energy.source, energy.idle_w, energy.load_w) == ("vcgencmd pmic_read_adc", IDLE_W, LOAD_W)
        assert energy.seconds is not None
        assert energy.inferences is not None
        joules = (LOAD_W - IDLE_W) * energy.seconds / energy.inferences
        assert energy.inference_mj == pytest.approx(1000 * joules)


@pytest.mark.parametrize(
    ("board", "names"),
    [(FIRST, ["openvino-int8"]), (SECOND, [f"{SECOND_TARGET}-{precision}" for precision in PRECISIONS])],
)
def test_finished_bundles_on_a_board(
    board: str, names: list[str], finished_run: Path, boards: dict[str, Emulated]
) -> None:
    """`edgekit benchmark` runs the test vectors first, so a row that passed has logits within the tolerance."""
    options = ["--warmup", "0", "--iterations", "2", "--threads", "1", "--json", "--quiet"]
    bundles = [str(finished_run / name) for name in names]
    rows = run_cli(["benchmark", *bundles, "--device", board, *options])["results"]
    assert [(row["device"]["name"], Path(row["bundle"]).name) for row in rows] == [(board, name) for name in names]
    suite, core = BOARDS[board]
    for row in rows:
        assert row["reasons"] == []
        assert row["latency_ms"]["count"] == 2
        assert row["device"]["emulated"] is True
        assert row["device"]["python"].startswith(PYTHONS[suite])
        assert row["device"]["class"] == {"cortex-a76": "raspberry-pi-5", "cortex-a72": "raspberry-pi-4"}[core]
        if core == "cortex-a72":
            assert row["energy"]["inference_mj"] is None
            assert "a Raspberry Pi 4 has no such sensor" in row["energy"]["source"]


def test_a_check_prints_the_lines_that_the_documentation_shows(
    boards: dict[str, Emulated], capfd: pytest.CaptureFixture[str]
) -> None:
    shown = re.search(r"edgekit doctor pi5\n```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown
    assert main(["doctor", FIRST]) == 0
    printed, documented = (
        [OF_THIS_MACHINE.sub(r"\1 …", line) for line in text.splitlines()]
        for text in (capfd.readouterr().out.replace(f" {FIRST}: ", " pi5: "), shown[1])
    )
    assert printed == documented


def test_commands_of_the_documentation(boards: dict[str, Emulated]) -> None:
    """Run the commands of the page on the board, where the user is root already."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = "".join(blocks).replace("sudo ", "").splitlines()
    assert len(commands) >= 9
    with connect(boards[SECOND].device()) as connection:
        for command in commands:
            done = connection.run(["sh", "-c", command])
            assert (done.status, done.err) == (0, ""), command
            assert done.out
        governor = connection.run(["cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"]).out
    assert governor == b"performance\n"


def test_an_app_runs_as_the_documentation_says(
    boards: dict[str, Emulated], finished_run: Path, wheel: Path, tmp_path: Path
) -> None:
    """Run the commands of the sections on the app and on the camera, without apt, pip and the camera itself.

    This machine's pip resolves what the page installs for Debian 12, and unpacks it there, because the emulated pip
    would need minutes.
    """
    board = boards[FIRST]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / wheel.name).symlink_to(wheel)
    (tmp_path / "docs").symlink_to(PAGE.parents[1])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo-pi5").symlink_to(finished_run)
    with zipfile.ZipFile(assets() / "evaluation.zip") as photos:
        (board.home / "photo.jpg").write_bytes(photos.read(photos.namelist()[0]))
    app, camera = (re.search(rf"## {title}\n(.*?)\n## ", PAGE.read_text(), re.DOTALL) for title in ("3. .*?", "4. .*?"))
    assert app
    assert camera
    copy, install, see_system, for_camera, _ = re.findall(r"```bash\n(.*?)```", app[1] + camera[1], re.DOTALL)
    for command in copy.replace("scp", f"scp -F {board.config}").replace("pi@raspberrypi.local", "device").splitlines():
        if command.startswith("scp"):
            subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    create, activate, pip, *use = install.splitlines()
    assert for_camera.startswith(pip)
    sh(board, f"{create} --without-pip")
    unpack_packages(board, tmp_path / "packages", shlex.split(for_camera.replace(f"./{wheel.name}", str(wheel)))[3:])
    printed = sh(board, "\n".join([activate, *use]).replace("\nedgekit", "\npython -m edgekit"))
    assert "all checks passed" in printed
    assert len(re.findall(r"^ *[\d.]+%  \w+$", printed, re.MULTILINE)) == 2
    sh(board, "".join(line for line in see_system.splitlines(keepends=True) if "apt" not in line))
    numpy_version, *path = sh(
        board, "~/edgekit/bin/python -c 'import numpy, sys; print(numpy.__version__, *sys.path)'"
    ).split()
    assert numpy_version.startswith("1.26.")
    assert "/usr/lib/python3/dist-packages" in path, "where apt installs picamera2"


def unpack_packages(board: Emulated, folder: Path, requirements: list[str]) -> None:
    """Put what pip would install in the page's environment there."""
    with connect(board.device()) as connection:
        fetch_wheels(FIRST, probe(connection), requirements, folder)
    (packages,) = board.home.glob("edgekit/lib/python3*/site-packages")
    for path in folder.iterdir():
        unpack(path, packages)
    debian.compile_modules(packages, PYTHONS[BOARDS[FIRST][0]])


def sh(board: Emulated, script: str) -> str:
    """The output of a shell script on the board. No command of it may fail."""
    with connect(board.device()) as connection:
        done = connection.run(["sh", "-ec", f"cd\n{script}"])
    assert done.status == 0, done.err
    return done.out.decode()
