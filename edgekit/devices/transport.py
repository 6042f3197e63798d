"""One SSH connection to a device, through the OpenSSH client as the user configured it.

Aliases, agent, ProxyJump and known hosts are the configuration's. A master connection is opened once, as a child of
this process, and every command goes through it: what its end says is what became of the connection, and an exit status
of 255 while it stands is the remote command's own. Nothing is run through a shell on the host; what the shell on the
device gets is quoted.
"""

import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgekit.devices.faults import connection_error, exit_error
from edgekit.devices.registry import Device
from edgekit.devices.requests import ScriptRequest
from edgekit.devices.scripts import source
from edgekit.errors import DeviceError, MissingExtraError, UnreachableError

CONNECT_S = 15
"""For the network's part; a key agent that asks, or a chain of jump hosts, may take longer."""
OPEN_S = 90
ALIVE_S = 10
ALIVE_COUNT = 3
"""A peer that leaves so many questions, so many seconds apart, without an answer is frozen."""


T = TypeVar("T")
_open: "set[Connection]" = set()


@dataclass(frozen=True)
class Done:
    """What became of a command on the device: exit status, and what it wrote."""

    status: int
    out: bytes
    err: str


class Connection:
    """An open connection. Make one with `connect`."""

    def __init__(self, device: Device, folder: Path, alive_s: int = ALIVE_S) -> None:
        self.device, self.folder, self._alive_s = device, folder, alive_s
        self._log = folder / "log"
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Open the master connection; raises a DeviceError that says why that can't be done."""
        command = [*self._ssh(), "-M", "-N", "-o", f"ServerAliveInterval={self._alive_s}"]
        command += ["-o", f"ServerAliveCountMax={ALIVE_COUNT}", "--", self.device.address.host]
        try:
            with self._log.open("wb") as log:
                self._master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except FileNotFoundError:
            raise MissingExtraError("the ssh command is missing: install the OpenSSH client.") from None
        start = time.monotonic()
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise self._lost(established=False)
            if time.monotonic() - start > OPEN_S:
                raise UnreachableError(f"{self.device.name}: no connection within {OPEN_S} s. Try: {self._by_hand}")
            time.sleep(0.02)

    def close(self) -> None:
        """End the connection, and with it whatever still runs through it."""
        if self._master is not None:
            self._master.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._master.wait(5)
            if self._master.poll() is None:
                self._master.kill()
                self._master.wait()

    def start(self, words: Sequence[str], stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a command on the device, with pipes to its stdin and stdout. Its words arrive as they are."""
        # To ssh a process that a signal ended is a 255, to a shell it is 128 and the signal's number: one in between.
        line = "exec " + shlex.join(["sh", "-c", '"$@"; exit $?', "sh", *words])
        # Without a master ssh would connect anew, as if nothing had happened: `false` can't.
        through = ["-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-T"]
        command = [*self._ssh(), *through, "--", self.device.address.host, line]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def run(self, words: Sequence[str], given: bytes = b"") -> Done:
        """Run a command to its end; a DeviceError if the connection is lost meanwhile."""
        with tempfile.TemporaryFile(dir=self.folder) as stderr:
            process = self.start(words, stderr)
            with ending(process):
                out, _ = process.communicate(given)
            stderr.seek(0)
            done = Done(process.returncode, out, stderr.read().decode(errors="replace"))
        self.check(done.status)
        return done

    def check(self, status: int) -> None:
        """Raise the DeviceError of a lost connection, if that is why a command ended with this status."""
        if status == 255 and self._is_lost():
            raise self._lost(established=True)

    def ask(self, python: str, script: str, request: ScriptRequest, answer: type[T], what: str) -> T:
        """Run one of `scripts` with a request; its answer. DeviceError if it fails; `what` names the work."""
        return self.answer(self.run(script_command(python, script, request)), answer, what)

    def answer(self, done: Done, kind: type[T], what: str) -> T:
        """The document that a script printed last; DeviceError if it failed or printed none of this type."""
        if done.status != 0:
            raise exit_error(self.device.name, what, done.status, done.err)
        try:
            return msgspec.convert(json.loads(done.out.splitlines()[-1]), kind)
        except (ValueError, IndexError):
            said = (done.out[-200:].decode(errors="replace") + done.err[-200:]).strip()
            raise DeviceError(
                f"{self.device.name}: {what} gave no answer that can be read ({said!r}). A login script that prints or "
                "ends the shell does that: keep it silent for ssh without a terminal."
            ) from None

    @property
    def _socket(self) -> Path:
        return self.folder / "s"

    def _ssh(self) -> list[str]:
        address, config = self.device.address, self.device.ssh_config
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={CONNECT_S}", "LogLevel=INFO"]
        options += [f"ControlPath={self._socket}", "ClearAllForwardings=yes", "RemoteCommand=none", "RequestTTY=no"]
        command = ["ssh", *(["-F", config] if config else [])]
        command += [word for option in options for word in ("-o", option)]
        command += ["-l", address.user] if address.user else []
        return command + (["-p", str(address.port)] if address.port else [])

    @property
    def _by_hand(self) -> str:
        address, config = self.device.address, self.device.ssh_config
        words = ["ssh", *(["-F", config] if config else []), *(["-p", str(address.port)] if address.port else [])]
        return shlex.join([*words, f"{address.user}@{address.host}" if address.user else address.host])

    def _is_lost(self) -> bool:
        assert self._master is not None
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(2)
        return self._master.poll() is not None

    def _lost(self, established: bool) -> DeviceError:
        said = self._log.read_text(errors="replace")
        return connection_error(self.device.name, self._by_hand, said, established)


def script_command(python: str, script: str, request: ScriptRequest) -> list[str]:
    """The command that runs one of `scripts` on a device with a request, in ASCII: not every path is UTF-8."""
    return [python, "-I", "-c", source(script), json.dumps(msgspec.to_builtins(request))]


@contextmanager
def connect(device: Device, alive_s: int = ALIVE_S) -> Iterator[Connection]:
    """A connection until the block ends; raises the DeviceError that says why there is none."""
    # A socket's path may have some hundred characters: not TMPDIR, which can be deep.
    place = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="edgekit-", dir=place) as folder:
        connection = Connection(device, Path(folder), alive_s)
        try:
            _open.add(connection)
            connection.open()
            yield connection
        finally:
            connection.close()
            _open.discard(connection)


def close_all() -> None:
    """End every connection of this process: what waits for one ends with the error of a lost one."""
    for connection in list(_open):
        connection.close()


@contextmanager
def ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a process if the block is left early."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
