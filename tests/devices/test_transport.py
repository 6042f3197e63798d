"""The connection to a real sshd: words arrive unchanged, and each fault has its own error."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.devices import transport
from edgekit.devices.messages import AppsAnswer
from edgekit.devices.registry import Device
from edgekit.devices.setup import ProbeResult, probe
from edgekit.devices.transport import Connection, Done, connect, exit_error
from edgekit.errors import (
    AuthenticationError,
    ConnectionCutError,
    DeviceCrashError,
    DeviceError,
    DeviceFullError,
    EdgekitError,
    FrozenError,
    HostKeyError,
    MissingExtraError,
    UnreachableError,
)
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, needs_sshd, processes, serve
from tests.helpers.waiting import wait_until, when

NASTY = ["a b", "it's", 'say "x"', "$(touch pwned)", "`touch pwned`", "; touch pwned", "*", "~", "\\", "é\t1\n2", ""]


@pytest.fixture
def server(tmp_path: Path, key_folder: Path) -> Iterator[Server]:
    with serve(tmp_path / "server", key_folder) as running:
        yield running


def test_words_arrive_unchanged(server: Server) -> None:
    with connect(server.device()) as connection:
        done = connection.run(["python3", "-c", "import sys; print(sys.argv[1:])", *NASTY], b"")
        assert done.out.decode().strip() == str(NASTY)
        assert connection.run(["cat"], b"\0\xff\n").out == b"\0\xff\n"
        folder = connection.folder
    assert not list(server.home.rglob("pwned"))
    assert not folder.exists()


def test_scripts_import_nothing_from_the_devices_home(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "source", lambda _: "import json, sys; print(json.dumps(sys.flags.isolated))")
    with connect(server.device()) as connection:
        assert connection.ask("python3", "store", {"cache": "", "clean": True}, int, "a script") == 1


def test_a_host_that_is_killed_leaves_no_connection(server: Server) -> None:
    code = "import os; from edgekit.devices.registry import Device; from edgekit.devices.transport import connect; "
    code += f"opened = connect(Device('board', 'ssh://device', ssh_config='{server.config}')); opened.__enter__(); "
    code += "print(os.getpid(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout
        assert int(host.stdout.readline()) == host.pid
        assert len(server.clients()) == 1
        host.kill()
    wait_until(lambda: not server.clients(), "ssh ends with the process that started it")


def test_a_server_that_takes_one_session_is_named(tmp_path: Path, key_folder: Path) -> None:
    """The connection itself is the first one."""
    with (
        serve(tmp_path / "server", key_folder, None, "MaxSessions 1") as server,
        connect(server.device()) as connection,
        refuses(DeviceError, "second session", "MaxSessions"),
    ):
        probe(connection)


def test_a_device_can_not_use_the_user_s_key_agent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    own = server.config.read_text().replace("  IdentityAgent none\n", "")
    server.config.write_text(f"Host *\n  ForwardAgent yes\n{own}")
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    socket, pid = re.findall(r"=([^;]+);", agent)
    monkeypatch.setenv("SSH_AUTH_SOCK", socket)
    try:
        with connect(server.device()) as connection:
            assert connection.run(["sh", "-c", "echo $SSH_AUTH_SOCK"]).out == b"\n"
    finally:
        os.kill(int(pid), signal.SIGTERM)


def test_a_status_of_255_is_the_commands_own_while_the_connection_stands(server: Server) -> None:
    with connect(server.device()) as connection:
        assert connection.run(["sh", "-c", "exit 255"]).status == 255
        assert connection.run(["true"]).status == 0


def test_a_connection_that_is_cut_under_a_command(server: Server) -> None:
    with connect(server.device()) as connection:
        running = lambda: any("sleep 300" in line for line in server.sessions().values())  # noqa: E731
        with when(running, server.cut), pytest.raises(ConnectionCutError):
            connection.run(["sleep", "300"])


def test_a_peer_that_freezes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ALIVE_COUNT", 1)
    with connect(server.device(), alive_s=1) as connection:
        for pid in server.sessions():
            subprocess.run(["kill", "-STOP", str(pid)], check=True)
        with pytest.raises(FrozenError, match="stopped answering"):
            connection.run(["sleep", "600"])


def test_a_command_that_never_ends_is_named(server: Server) -> None:
    with connect(server.device()) as connection:
        with refuses(FrozenError, "board: the nap didn't end within 1 s"):
            connection.run(["sleep", "60"], work="the nap", limit_s=1)
        assert connection.run(["true"]).status == 0, "the connection still stands"


def test_no_connection_outlives_edgekit_whatever_the_user_configured(server: Server) -> None:
    own = server.config.read_text()
    server.config.write_text(f"Host *\n  ControlMaster auto\n  ControlPersist 10m\n{own}")
    with connect(server.device()) as connection:
        assert connection.run(["true"]).status == 0
        folder = str(connection.folder)
        assert [line for _, line in processes() if folder in line]
    assert not [line for _, line in processes() if folder in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_no_connection_behind(server: Server, number: signal.Signals) -> None:
    """Only edgekit gets the signal, as from `kill` or `systemctl stop`."""
    code = (
        "import sys, time\n"
        "from edgekit.cli import frame, main\n"
        "from edgekit.devices.registry import Device\n"
        "from edgekit.devices.transport import connect\n"
        "def run(arguments):\n"
        "    with connect(Device('board', 'ssh://device', None, arguments[0])) as connection:\n"
        "        print(connection.folder, connection._master.pid, flush=True)\n"
        "        connection.run(['sleep', '60'])\n"
        "frame.run = run\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, str(server.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        folder, master = process.stdout.readline().split()
        process.send_signal(number)
        assert process.wait(20) == 130
    assert not Path(folder).exists()
    assert not Path(f"/proc/{master}").exists()


def test_nobody_listens(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(5)
    with pytest.raises(UnreachableError) as caught:
        connect(server.device()).__enter__()
    assert f"ssh -F {server.config} device" in caught.value.fix


def test_a_host_key_that_is_not_known(server: Server) -> None:
    (server.folder / "known_hosts").write_text("")
    with pytest.raises(HostKeyError) as caught:
        connect(server.device()).__enter__()
    assert "ssh-keygen -R" not in caught.value.fix, "there is no key to remove"
    config = server.config.read_text() + "  StrictHostKeyChecking no\n"
    server.config.write_text(config)
    with pytest.raises(HostKeyError):
        connect(server.device()).__enter__()


def test_a_host_key_that_has_changed(server: Server, key_folder: Path) -> None:
    other = " ".join((key_folder / "user_key.pub").read_text().split()[:2])
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {other}\n")
    with pytest.raises(HostKeyError) as caught:
        connect(server.device()).__enter__()
    assert "ssh-keygen -R" in caught.value.fix


def test_a_key_that_is_refused(server: Server, key_folder: Path) -> None:
    shutil.copy(key_folder / "host_key", server.folder / "user_key")
    with pytest.raises(AuthenticationError) as caught:
        connect(server.device()).__enter__()
    assert "ssh-copy-id" in caught.value.fix


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    needs_sshd()
    with pytest.raises(UnreachableError) as caught:
        connect(Device("x", "ssh://device", None, str(tmp_path / "gone"))).__enter__()
    assert str(tmp_path / "gone") in caught.value.problem


def test_no_ssh_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtraError):
        connect(Device("x", "ssh://device")).__enter__()


def test_user_port_and_options_come_before_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = transport.Connection(Device("x", "ssh://pi@host:2222", None, "my config"), tmp_path)
    command = connection._ssh()
    assert command[:3] == ["ssh", "-F", "my config"]
    assert command[-4:] == ["-l", "pi", "-p", "2222"]
    assert "StrictHostKeyChecking=yes" in command
    assert connection._by_hand == "ssh -F 'my config' -p 2222 pi@host"


def test_an_answer_controls_no_terminal(tmp_path: Path) -> None:
    out = b'{"folder": "/home/\\u001b[2Jpi\\u0007", "disk_free_bytes": 1, "trust": null, "apps": []}\n'
    answer = Connection(Device("pi", "ssh://pi"), tmp_path).answer(Done(0, out, ""), AppsAnswer, "listing")
    assert answer.folder == "/home/pi\N{REPLACEMENT CHARACTER}"


def test_a_login_script_that_prints(server: Server) -> None:
    with connect(server.device()) as connection:
        done = connection.run(["echo", "Welcome!"])
        with pytest.raises(DeviceError) as caught:
            connection.answer(done, ProbeResult, "the probe")
    assert "'Welcome!'" in caught.value.problem


@pytest.mark.parametrize(
    ("status", "stderr", "kind", "part"),
    [
        (137, "", DeviceCrashError, "out of memory"),
        (-9, "", DeviceCrashError, "out of memory"),
        (132, "Illegal instruction", DeviceCrashError, "SIGILL"),
        (139, "", DeviceCrashError, "SIGSEGV"),
        (1, "OSError: [Errno 28] No space left on device", DeviceFullError, "edgekit devices clean pi"),
        (3, "one\ntwo\n", DeviceError, "failed with exit status 3: two"),
        (3, "\x1b[8mtw\x9bo\x1b[0m\n", DeviceError, "failed with exit status 3: tw\N{REPLACEMENT CHARACTER}o"),
    ],
)
def test_ends_of_processes(status: int, stderr: str, kind: type[EdgekitError], part: str) -> None:
    error = exit_error("pi", "the measurement", status, stderr)
    assert type(error) is kind
    assert part in str(error)
    assert error.exit_code == 1
