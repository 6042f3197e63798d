"""An SSH connection to a device, through the OpenSSH client as the user configured it, and what its errors mean.

Aliases, agent, ProxyJump and known hosts come from that configuration. A master connection is opened once, as a child
of this process, and every command goes through it. The exit of the master process tells whether the connection was
lost; an exit status of 255 while it runs comes from the remote command. The host runs nothing through a shell, and
commands for the device's shell are quoted.
"""

import json
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgekit import errors
from edgekit.devices.messages import readable
from edgekit.devices.registry import Device, closing
from edgekit.devices.scripts import source
from edgekit.errors import DeviceError, FrozenError, MissingExtraError, UnreachableError, all_printable
from edgekit.support import child_process

# Signals on the device, which runs Linux. The host's Python may number them differently, and Windows has no SIGKILL.
SIGILL, SIGKILL = 4, 9
# Messages of the OpenSSH client, which are not translated.
_CHANGED_KEY = ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host key mismatch")
_UNKNOWN_KEY = ("Host key verification failed", "No matching host key", "host key is known for")
_REFUSED = ("Permission denied", "Too many authentication failures", "no such identity", "Authentication failed")
_SILENT = ("not responding", "timed out during banner exchange")
_NO_ROUTE = (
    "Could not resolve hostname",
    "Connection refused",
    "No route to host",
    "Network is unreachable",
    "Connection timed out",
    "Operation timed out",
    "Bad configuration option",
    "Can't open user config file",
    "Bad owner or permissions",
    "Bad port",
)
_FULL = ("No space left on device", "Disk quota exceeded")


def connection_error(device: str, command: str, output: str, established: bool) -> DeviceError:
    """The error for a connection that failed, or ended after it was `established`.

    `command` is the ssh command that a user can try by hand, and `output` is what ssh printed.
    """
    line = _reason(output)
    if any(words in output for words in _CHANGED_KEY):
        return errors.HostKeyError(
            f"{device}: the host key has changed",
            fix="If the device was reinstalled, remove the old key with `ssh-keygen -R HOST` and accept the new one "
            f"with `{command}`",
        )
    if any(words in output for words in _UNKNOWN_KEY):
        return errors.HostKeyError(
            f"{device}: the host key is unknown", fix=f"Compare the key and accept it once with `{command}`"
        )
    if any(words in output for words in _REFUSED):
        return errors.AuthenticationError(
            f"{device}: the SSH server refused the login ({line})",
            valid="an SSH key that is authorized there; edgekit never asks for a password",
            fix=f"Copy your key there with `ssh-copy-id`, or load it with `ssh-add`, then try `{command}`",
        )
    if established and any(words in output for words in _SILENT):
        return errors.FrozenError(
            f"{device}: the device stopped answering ({line})",
            fix="Check its power supply, cooling and free memory, then run the same command again",
        )
    if established:
        return errors.ConnectionCutError(
            f"{device}: the connection was cut ({line or 'ssh ended'})",
            fix="Check whether the device restarted, then run the same command again",
        )
    return errors.UnreachableError(
        f"{device}: no connection ({line or 'ssh ended without a message'})",
        fix=f"Check that the device is on and in the network, then try `{command}`",
    )


def exit_error(device: str, work: str, status: int, stderr: str) -> DeviceError:
    """The error for a process that failed on the device. `status` is its exit status as the device's shell gives it."""
    number = status - 128 if status > 128 else -status
    line = _last_line(stderr)
    if any(words in stderr for words in _FULL):
        return full_disk(device, work, line)
    if "Session open refused" in stderr:
        return DeviceError(
            f"{device}: the SSH server there refuses a second session within a connection",
            fix="Remove `MaxSessions` from its sshd_config, or set it to 3 or more",
        )
    if number == SIGKILL:
        return errors.DeviceCrashError(
            f"{device}: {work} was killed (SIGKILL), probably because it ran out of memory",
            fix="Close other programs there, use a smaller model, or use --threads 1",
        )
    if number == SIGILL:
        return errors.DeviceCrashError(
            f"{device}: {work} used an instruction that this processor lacks (SIGILL); the runtime was built for "
            "another processor",
            fix="Leave this runtime out with --target",
        )
    if 0 < number < 65:
        return errors.DeviceCrashError(
            f"{device}: {work} crashed ({child_process.signal_name(number)}{': ' + line if line else ''})",
            fix="Run the same command again; if the crash repeats, leave this runtime out with --target",
        )
    return DeviceError(f"{device}: {work} failed with exit status {status}: {line or 'no message'}")


def full_disk(device: str, work: str, detail: str) -> errors.DeviceFullError:
    """The error for a full disk on the device."""
    return errors.DeviceFullError(
        f"{device}: {work} ran out of disk space ({detail})",
        fix=f"Free some space there. `edgekit devices clean {device}` empties edgekit's own folder, which apps may not "
        "share a file system with",
    )


def _reason(output: str) -> str:
    """The line of ssh's output that gives the reason."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reasons = (*_REFUSED, *_SILENT, *_NO_ROUTE)
    return next((line for line in lines if any(words in line for words in reasons)), lines[-1] if lines else "")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


CONNECT_S = 15
"""Time limit for the network part of a connection."""
OPEN_S = 90
"""Time limit for opening a connection. A key agent that asks the user, or a chain of jump hosts, takes time."""
ALIVE_S = 10
"""Time between two keep-alive messages of ssh."""
ALIVE_COUNT = 3
"""Number of unanswered keep-alive messages after which a device counts as frozen."""
SCRIPT_S = 600
"""Time limit for a command on the device. Hashing a bundle of some gigabytes on an SD card takes minutes."""
WAIT = "exec /bin/sh -c 'read line'"
"""Command that waits for the end of its stdin, in the words of every login shell."""

T = TypeVar("T")
Request = Mapping[str, object]
"""A request to one of `scripts`, whose docstring has the keys, as JSON values."""


@dataclass(frozen=True)
class Done:
    """The result of a command on the device."""

    status: int
    """Exit status."""
    out: bytes
    """Output on stdout."""
    err: str
    """Output on stderr."""


class Connection:
    """An open connection. `connect` creates one."""

    def __init__(self, device: Device, folder: Path, alive_s: int = ALIVE_S) -> None:
        self.device, self.folder, self._alive_s = device, folder, alive_s
        self._log = folder / "log"
        self._master: subprocess.Popen[bytes] | None = None
        self.copied_bytes = 0
        """Size of what was copied into the device's store."""

    def open(self) -> None:
        """Open the master connection; raises a DeviceError with the reason if that fails."""
        command = [*self._ssh(), "-M", "-T", "-o", f"ServerAliveInterval={self._alive_s}"]
        # Whatever ends this process closes the pipe, which ends the read and with it the connection.
        command += ["-o", f"ServerAliveCountMax={ALIVE_COUNT}", "--", self.device.address.host, WAIT]
        try:
            with self._log.open("wb") as log:
                self._master = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        except FileNotFoundError:
            raise MissingExtraError("the ssh command is not installed", fix="Install the OpenSSH client") from None
        start = time.monotonic()
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise self._lost(established=False)
            if time.monotonic() - start > OPEN_S:
                raise UnreachableError(
                    f"{self.device.name}: no connection within {OPEN_S} s", fix=f"Try `{self._by_hand}`"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Close the connection, which ends every command that still runs through it."""
        if self._master is not None:
            assert self._master.stdin
            self._master.terminate()
            self._master.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._master.wait(5)
            if self._master.poll() is None:
                self._master.kill()
                self._master.wait()

    def start(self, words: Sequence[str], stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a command on the device with pipes to its stdin and stdout. Its words arrive unchanged."""
        # For a process that a signal ended, ssh reports 255, but a shell 128 plus the signal: so a shell runs it.
        line = "exec " + shlex.join(["sh", "-c", '"$@"; exit $?', "sh", *words])
        # Without a master, ssh would silently open a new connection. The proxy command `false` prevents that.
        through = ["-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-T"]
        command = [*self._ssh(), *through, "--", self.device.address.host, line]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def run(self, words: Sequence[str], stdin: bytes = b"", work: str = "a command", limit_s: float = SCRIPT_S) -> Done:
        """Run a command until it exits.

        DeviceError if the connection is lost meanwhile, or if the command, which is called `work`, takes too long.
        """
        with tempfile.TemporaryFile(dir=self.folder) as stderr:
            process = self.start(words, stderr)
            with ending(process):
                try:
                    out, _ = process.communicate(stdin, limit_s)
                except subprocess.TimeoutExpired:
                    raise frozen(self.device.name, f"{work} didn't end within {limit_s:.0f} s") from None
            stderr.seek(0)
            done = Done(process.returncode, out, stderr.read().decode(errors="replace"))
        self.check(done.status)
        return done

    def check(self, status: int) -> None:
        """Raise a DeviceError if a command ended with this status because the connection was lost."""
        if status == 255 and self._is_lost():
            raise self._lost(established=True)

    def ask(self, python: str, script: str, request: Request, answer: type[T], work: str) -> T:
        """Run one of `scripts` with a request, and return its answer. DeviceError, which names `work`, if it fails."""
        return self.answer(self.run(script_command(python, script, request), work=work), answer, work)

    def answer(self, done: Done, kind: type[T], work: str) -> T:
        """The document that a script printed last, with printable texts; DeviceError if it failed or printed none."""
        if done.status != 0:
            raise exit_error(self.device.name, work, done.status, done.err)
        try:
            return msgspec.convert(readable(all_printable(json.loads(done.out.splitlines()[-1]))), kind)
        except (ValueError, IndexError, RecursionError):
            output = (done.out[-200:].decode(errors="replace") + done.err[-200:]).strip()
            raise DeviceError(
                f"{self.device.name}: {work} returned an unreadable answer ({output!r})",
                fix="Check the login scripts on the device: without a terminal they must not print or exit",
            ) from None

    @property
    def _socket(self) -> Path:
        return self.folder / "s"

    def _ssh(self) -> list[str]:
        address, config = self.device.address, self.device.ssh_config
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={CONNECT_S}", "LogLevel=INFO"]
        options += [f"ControlPath={self._socket}", "ClearAllForwardings=yes", "RemoteCommand=none", "RequestTTY=no"]
        options += ["ForwardAgent=no", "ForwardX11=no"]  # whoever controls a board could use them meanwhile
        options += ["ControlPersist=no"]  # otherwise the master outlives the process that it is a child of
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
        output = self._log.read_text(errors="replace")
        return connection_error(self.device.name, self._by_hand, output, established)


def frozen(device: str, problem: str) -> FrozenError:
    """The error for a device that doesn't do what it was asked to, although it is connected."""
    return FrozenError(
        f"{device}: {problem}",
        fix="Check the device's disk, power supply, cooling and free memory, then run the same command again",
    )


def script_command(python: str, script: str, request: Request) -> list[str]:
    """The command that runs one of `scripts` with a request, in ASCII because not every path is UTF-8."""
    return [python, "-I", "-c", source(script), json.dumps(request)]


@contextmanager
def connect(device: Device, alive_s: int = ALIVE_S) -> Iterator[Connection]:
    """Open a connection until the block ends; raises a DeviceError with the reason if that fails."""
    # A socket's path is limited to about a hundred characters, and TMPDIR can be longer.
    parent = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="edgekit-", dir=parent) as folder:
        connection = Connection(device, Path(folder), alive_s)
        with closing(connection.close):
            connection.open()
            yield connection


@contextmanager
def ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill a process if the block ends before it, and close its pipes."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not read any more
                    pipe.close()


@contextmanager
def watched(
    process: "subprocess.Popen[bytes]", device: str, problem: str, limit_s: float
) -> Iterator[Callable[[], None]]:
    """Yields a function. If it isn't called for `limit_s`, the process is killed, and FrozenError names the problem.

    The block then sees the end of the pipes of the process, and must come to its end.
    """
    moved, over, stuck = threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        while moved.wait(limit_s):
            if over.is_set():
                return
            moved.clear()
        stuck.set()
        process.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        with ending(process):
            yield moved.set
    finally:
        over.set()
        moved.set()
        thread.join()
    if stuck.is_set():
        raise frozen(device, f"{problem} for {limit_s} s")
