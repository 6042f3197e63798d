"""Copying files to a device, and setting up its environments."""

import io
import os
import shutil
import subprocess
import tomllib
import zipfile
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from edgekit import __version__
from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices import setup
from edgekit.devices.remote import open_board
from edgekit.devices.setup import REQUIREMENTS, own_package, probe
from edgekit.devices.transport import connect
from edgekit.errors import ConnectionCutError, DeviceError, DeviceFullError, DeviceSetupError, FrozenError
from edgekit.measure.bundles import MeasureSpec
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import file_sha256
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server
from tests.helpers.tiny import ROOT


def test_files_are_copied_once_and_damage_is_noticed(
    lent_board: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "$(name) 'x'"
    first.write_bytes(b"content")
    with connect(lent_board.device()) as connection:
        facts = probe(connection)
        (digest,) = setup.send_files(connection, facts, [first])
        sent = lent_board.cache / "files" / digest
        assert sent.read_bytes() == b"content"
        inode = sent.stat().st_ino
        assert setup.send_files(connection, facts, [first]) == [digest]
        assert sent.stat().st_ino == inode, "the file is not sent again"
        other = tmp_path / "other"
        other.write_bytes(b"other")
        monkeypatch.setattr(setup, "file_sha256", lambda path: "0" * 64)
        with pytest.raises(ConnectionCutError):
            setup.send_files(connection, facts, [other])
        monkeypatch.undo()
        assert [path.name for path in (lent_board.cache / "files").iterdir()] == [digest]
        with refuses(DeviceError, "gone'"):
            setup.send_files(connection, facts, [tmp_path / "gone"])
        with refuses(DeviceFullError, "0 MB", "devices clean board"):
            setup.send_files(connection, replace(facts, disk_free_bytes=1), [other])
        os.utime(sent, (0, 0))
        assert setup.send_files(connection, replace(facts, disk_free_bytes=1), [other]), "removable files make room"
        assert digest not in {path.name for path in (lent_board.cache / "files").iterdir()}, "it was unused for a month"


def test_a_copy_that_was_cut_goes_on_where_it_ended(board: Server, tmp_path: Path) -> None:
    """A wrong byte in what had arrived shows that it isn't sent again."""
    content = bytes(range(256)) * 20
    file = tmp_path / "file"
    file.write_bytes(content)
    digest = file_sha256(file)
    part = board.cache / "files" / f".{digest}.part"
    part.parent.mkdir(parents=True)
    with connect(board.device()) as connection:
        facts = probe(connection)
        part.write_bytes(b"?" + content[1:3000])
        with pytest.raises(ConnectionCutError):
            setup.send_files(connection, facts, [file])
        assert list(part.parent.iterdir()) == []
        part.write_bytes(content[:3000])
        assert setup.send_files(connection, facts, [file]) == [digest]
    assert (part.parent / digest).read_bytes() == content
    assert [path.name for path in part.parent.iterdir()] == [digest]


@pytest.mark.parametrize("script", ["exec sleep 60", "cat > /dev/null; exec sleep 60"])
def test_a_copy_that_the_device_does_not_take_is_named(
    board: Server, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "COPY_S", 1)
    file, python = tmp_path / "file", tmp_path / "python"
    file.write_bytes(bytes(8_000_000))
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    request = {"cache": str(board.cache), "files": {"a" * 64: 8_000_000}, "receive": True, "offsets": {}}
    with connect(board.device()) as connection, refuses(FrozenError, "took nothing of a copy for 1 s"):
        setup._stream(connection, str(python), request, {file: 0})


def test_clean(lent_board: Server, capfd: Any) -> None:
    (lent_board.home / "mine").write_text("kept")
    capfd.readouterr()
    assert main(["devices", "clean", "board"]) == 0
    assert capfd.readouterr().out == f"board: removed {lent_board.cache}\n"
    assert not lent_board.cache.exists()
    assert (lent_board.home / "mine").exists()
    assert main(["devices", "clean", "board"]) == 0
    assert "nothing to remove" in capfd.readouterr().out


@pytest.mark.slow
def test_packages_come_from_this_machine(
    lent_board: Server, pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has them in a folder, it needs no package index."""
    shutil.rmtree(lent_board.cache)
    bundle = read_bundle(pair[1])
    with connect(lent_board.device()) as connection:
        requirements = setup.requirements_of("onnx", bundle.manifest.engine["minimum"])
        setup.fetch_wheels("board", probe(connection), requirements, tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with open_board(lent_board.device(wheels=str(tmp_path)), Reporter(quiet=True)) as opened:
        (row,) = opened.rows({"int8": bundle}, MeasureSpec(Timing(threads=1, warmup=1, iterations=5))).values()
    assert row.latency_ms is not None
    assert row.latency_ms.count == 5
    (python,) = lent_board.cache.glob("environments/*/bin/python")
    code = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'typer', 'rich', 'pip'))))"
    assert subprocess.run([python, "-I", "-c", code], check=False).returncode == 0


def test_a_machine_without_an_index_takes_wheels_from_a_folder(
    board: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, taken = tmp_path / "wheels", tmp_path / "taken"
    for place in (wheels, taken):
        place.mkdir()
    with zipfile.ZipFile(wheels / "small-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with connect(board.device()) as connection:
        facts = probe(connection)
        setup.fetch_wheels("board", facts, ["small>=1"], taken, str(wheels))
        assert [path.name for path in taken.iterdir()] == ["small-1.0-py3-none-any.whl"]
        with refuses(DeviceSetupError, "No matching distribution found for numpy", "--wheels") as caught:
            setup.ensure_environment(connection, facts, "onnx")
        assert "onnxruntime" in caught.value.valid
    assert not board.cache.exists(), "nothing is copied before all packages are here"


def test_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (msgspec,) = (requirement for requirement in extras["cli"] if requirement.startswith("msgspec"))
    assert list(REQUIREMENTS) == [*project["dependencies"], msgspec]
    for target in RUNTIMES.values():
        if target.extra in extras:
            assert [target.requirement] == extras[target.extra]
            assert setup.requirements_of(target.name, "1.0") == [*REQUIREMENTS, f"{target.requirement},>=1.0"]


@pytest.mark.parametrize("extra", ["build", "scale"])
def test_every_extra_that_uses_msgspec_wants_the_same_one(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(REQUIREMENTS) & set(extras[extra]) == {REQUIREMENTS[-1]}


def test_the_package_names_its_distribution() -> None:
    with zipfile.ZipFile(io.BytesIO(own_package())) as archive:
        metadata = message_from_bytes(archive.read(f"edgekit_deploy-{__version__}.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("edgekit-deploy", __version__)


def test_the_package_is_the_same_each_time_and_leaves_the_demo_out() -> None:
    assert own_package() == own_package()
    with zipfile.ZipFile(io.BytesIO(own_package())) as archive:
        names = archive.namelist()
    assert "edgekit/devices/agent.py" in names
    assert "edgekit/_data/targets/raspberry-pi-5.toml" in names
    assert not [name for name in names if "/demo/" in name or "__pycache__" in name]
    assert len(own_package()) < 500_000
