"""A real sshd on loopback. Its "device" is this machine with another home folder."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from edgekit.devices import setup
from edgekit.devices.registry import Device
from edgekit.devices.setup import own_package
from tests.helpers.missing import missing
from tests.helpers.waiting import wait_until

SSHD = "/usr/sbin/sshd"


@dataclass
class Server:
    """A running sshd and its address."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def home(self) -> Path:
        """The device's home folder."""
        return self.folder / "home"

    @property
    def cache(self) -> Path:
        """The folder of edgekit's cache on the device."""
        return self.home / ".cache" / "edgekit"

    @property
    def config(self) -> Path:
        """The client's configuration file, with the alias `device`."""
        return self.folder / "ssh_config"

    def device(self, name: str = "board", **changes: Any) -> Device:
        """The device as the registry returns it."""
        return Device(name, "ssh://device", ssh_config=str(self.config), **changes)

    def sessions(self) -> dict[int, str]:
        """Command lines of the sshd processes of all connections, and of their descendants, by process id."""
        command = ["ps", "-ww", "-eo", "pid=,ppid=,args="]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [(int(pid), int(parent), line) for pid, parent, line in map(_three, listed.splitlines())]
        found: dict[int, str] = {}
        parents = {self.process.pid}
        while parents:
            children = {pid: line for pid, parent, line in rows if parent in parents}
            found |= children
            parents = set(children)
        return found

    def clients(self) -> list[int]:
        """Process ids of the ssh clients that use this server's configuration."""
        return [pid for pid, arguments in processes() if arguments.startswith(f"ssh -F {self.config} ")]

    def cut(self) -> None:
        """Kill every connection."""
        for pid in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


AnyServer = TypeVar("AnyServer", bound=Server)


def keys(folder: Path) -> Path:
    """A host key and a user key, made once."""
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)], check=True
        )
    return folder


def needs_sshd() -> None:
    """Skip the test if there is no sshd, or fail in CI."""
    if not os.path.exists(SSHD) or shutil.which("ssh") is None:
        missing("needs the OpenSSH server and client")


@contextmanager
def serve(folder: Path, keys: Path, path: str | None = None, *more: str) -> Iterator[Server]:
    """Start an sshd that accepts the user key, and whose sessions have this PATH and a home in `folder`.

    `more` are lines of its configuration.
    """
    home, programs = folder / "home", folder / "programs"
    home.mkdir(parents=True)
    programs.mkdir()
    (programs / "python3").symlink_to(os.path.realpath(sys.executable))
    path = f"{programs}:/usr/bin:/bin" if path is None else path
    port, config = configure(folder, keys, f"SetEnv HOME={home} PATH={path}", *more)
    with running(Server(folder, port, start(folder, [SSHD, "-D", "-e", "-f", str(config)]))) as server:
        yield server


def start(folder: Path, command: list[str]) -> "subprocess.Popen[bytes]":
    """Start a server's process, with its log in the folder."""
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Wait until the server listens. After the block, end it and its connections."""
    try:
        wait_for_port(server)
        yield server
    finally:
        server.cut()
        server.process.terminate()
        server.process.wait(10)


def configure(folder: Path, keys: Path, *more: str) -> tuple[int, Path]:
    """Configure a server with these lines on a free port, and its client; return the port and the server's file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {keys}/host_key", "PidFile none", "UsePAM no",
        f"AuthorizedKeysFile {keys}/user_key.pub", "StrictModes no", "PermitRootLogin prohibit-password",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", *more,
    ]  # fmt: skip
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = subprocess.run([SSHD, "-T", "-f", str(config)], capture_output=True, text=True, check=False).stdout
    if "persourcepenalties" in options:  # OpenSSH 9.8 and newer lock a peer out after refused logins
        config.write_text("\n".join([*lines, "PerSourcePenalties no"]) + "\n")
    write_client(folder, keys, port)
    return port, config


def write_client(folder: Path, keys: Path, port: int) -> None:
    """Write the client's configuration and known hosts."""
    public = " ".join((keys / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    user_key = shutil.copy(keys / "user_key", folder / "user_key")
    os.chmod(user_key, 0o600)
    (folder / "ssh_config").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {user_key}\n  IdentitiesOnly yes\n"
        f"  IdentityAgent none\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile none\n"
    )


def wait_for_port(server: Server) -> None:
    """Wait until the server listens."""

    def listens() -> bool:
        assert server.process.poll() is None, (server.folder / "log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return True
        return False

    wait_until(listens, "sshd listens")


def lend_environment(server: Server, target: str, minimum: str | None, signed: bool = False) -> Path:
    """Put the tests' own environment where the set-up looks for one, because pip would need a minute."""
    package, (major, minor, micro, *_) = own_package(), sys.version_info
    requirements = setup.requirements_of(target, minimum, signed)
    place = server.cache / "environments" / setup.environment_key(package, requirements, f"{major}.{minor}.{micro}")
    packages = place / "lib" / f"python{major}.{minor}" / "site-packages"
    packages.mkdir(parents=True)
    (place / "bin").mkdir()
    python = Path(os.path.realpath(sys.executable))
    (place / "bin" / "python").symlink_to(python)
    (place / "pyvenv.cfg").write_text(f"home = {python.parent}\n")  # all that Python needs, and the module venv is slow
    # Unlike a plain path, addsitedir also reads the .pth files there.
    others = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (packages / "lent.pth").write_text(f"{_unpacked(package).name}\n{others}\n")
    (place / "edgekit-complete").touch()
    (server.cache / "files").mkdir(exist_ok=True)
    return place


@cache
def _unpacked(package: bytes) -> "tempfile.TemporaryDirectory[str]":
    """A folder of the package's files, which all environments share so that Python compiles them once."""
    folder = tempfile.TemporaryDirectory(prefix="edgekit-lent-")
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        archive.extractall(folder.name)
    return folder


def _three(line: str) -> list[str]:
    """The first two words of a line, and the rest."""
    return [*line.split(None, 2), ""][:3]


def agents(server: Server) -> list[int]:
    """Process ids of the agents on this device."""
    here = f"{server.cache}/environments"
    return [pid for pid, line in processes() if "edgekit.devices.agent" in line and line.startswith(here)]


def signal_agents(server: Server, number: signal.Signals) -> list[int]:
    """Send a signal to the agents on this device. Returns their process ids, without those that have just ended."""
    reached = []
    for pid in agents(server):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            reached.append(pid)
    return reached


def processes() -> list[tuple[int, str]]:
    """Process id and command line of every process."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [(int(pid), line) for pid, line in (line.split(None, 1) for line in listed.splitlines())]


def agents_at_work(server: Server) -> list[int]:
    """Process ids of the agents once one has received its job, which creates a work folder."""
    return agents(server) if any(server.cache.glob("work-*")) else []
