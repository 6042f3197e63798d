"""The user's devices file: names and addresses, valid and invalid."""

import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgekit.devices.registry import (
    THIS,
    Address,
    Device,
    devices_file,
    find_remote,
    parse_url,
    saved_machines,
)
from edgekit.errors import OutputError, UsageError
from tests.helpers.refusals import refuses

NASTY = ["pi 5", "pi'5", 'pi"5', "$(reboot)", "`id`", "-pi", "../pi", "", "a\nb", "pi;ls", "local", "ä" * 3, "p" * 65]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "configuration" / "devices.toml"
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(path))
    return path


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://pi5", Address("pi5")),
        ("ssh://pi@raspberrypi.local", Address("raspberrypi.local", "pi")),
        ("ssh://pi@10.0.0.7:2222", Address("10.0.0.7", "pi", 2222)),
        ("ssh://pi@[fe80::1%eth0]:22/", Address("fe80::1%eth0", "pi", 22)),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    ["pi5", "http://pi5", "ssh://", "ssh://-oProxyCommand=id", "ssh://-l@pi", "ssh://pi 5", "ssh://$(id)", "ssh://a@b@c",
     "ssh://pi:0", "ssh://pi:65536", "ssh://pi/path", "ssh://pi:x", "ssh://pi'", "ssh://pi\n"],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    with refuses(UsageError, url) as caught:
        parse_url(url)
    assert "ssh://USER@HOST:PORT" in caught.value.valid


def test_an_added_device_is_found_until_it_is_removed(file: Path, tmp_path: Path) -> None:
    config = tmp_path / 'a "quoted" $(name)'
    config.write_text("")
    pi = Device("pi5", "ssh://pi@raspberrypi.local", "raspberry-pi-5", str(config))
    pi.add()
    Device("other", "ssh://other:2222").add()
    signed = Device("signed", "ssh://signed", trust='-----BEGIN PUBLIC KEY-----\n"ä"\n')
    signed.add()
    assert Device.find("signed") == signed
    Device.remove("signed")
    assert Device.find("pi5") == pi
    assert Device.find("other").address == Address("other", None, 2222)
    assert list(Device.saved()) == ["pi5", "other"]
    assert set(tomllib.loads(file.read_text())["pi5"]) == {"url", "class", "ssh_config"}
    names = {path.name for path in file.parent.iterdir()}
    assert names == {"devices.toml", ".devices.toml.lock"}, "no temporary file is left"
    Device.remove("pi5")
    assert list(Device.saved()) == ["other"]
    with refuses(UsageError, "'pi5'") as caught:
        Device.remove("pi5")
    assert caught.value.valid == "other"


def test_commands_add_to_the_settings_of_a_saved_device() -> None:
    Device("far", "ssh://far", wheels="/wheels").add()
    Device("near", "ssh://near").add()
    Device("phone", "web", web_network="https", web_runtime="/litertjs.tgz").add()
    assert Device.find("phone").is_browser
    assert (Device.find("far").wheels, Device.find("near").wheels) == ("/wheels", None)
    assert Device.find("far", Path("others")).wheels == "others"
    assert Device.find("local", Path("others")) == THIS
    assert Device.find("phone", web_network="http") == Device(
        "phone", "web", web_network="http", web_runtime="/litertjs.tgz"
    )
    assert Device.find("phone", web_runtime=Path("other.tgz")).web_runtime == "other.tgz"
    assert saved_machines() == ["far", "near"]
    for find in (Device.find_machine, find_remote):
        with refuses(UsageError, "'phone' is a browser"):
            find("phone")


@pytest.mark.parametrize(
    ("device", "option"),
    [
        (Device("phone", "web", "raspberry-pi-5"), "--device-class"),
        (Device("phone", "web", wheels="/wheels"), "--wheels"),
        (Device("pi", "ssh://pi", web_network="http"), "--web-network"),
        (Device("pi", "ssh://pi", web_runtime="litertjs.tgz"), "--web-runtime"),
    ],
)
def test_settings_that_do_not_suit_a_device_are_refused(device: Device, option: str, file: Path) -> None:
    with refuses(UsageError, option, device.name):
        device.add()
    assert not file.exists()


def test_commands_that_run_at_once_save_all_their_devices(file: Path) -> None:
    code = "from edgekit.devices.registry import *; import sys; input(); Device(sys.argv[1], 'ssh://host').add()"
    names = [f"pi{index}" for index in range(6)]
    with ExitStack() as stack:
        commands = ([sys.executable, "-c", code, name] for name in names)
        started = [stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE)) for command in commands]
        for process in started:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
    assert [process.returncode for process in started] == [0] * 6
    assert sorted(Device.saved()) == names


def test_a_file_that_is_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    """It may point into a folder that is under version control."""
    target = tmp_path / "dotfiles" / "devices.toml"
    target.parent.mkdir()
    target.write_text("[one]\nurl = 'ssh://one'\n")
    file.parent.mkdir()
    file.symlink_to(target)
    Device("two", "ssh://two").add()
    assert file.is_symlink()
    assert list(tomllib.loads(target.read_text())) == ["one", "two"]


def test_the_user_s_comments_stay(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("# in the rack\n[pi5]\nurl = 'ssh://pi5' # second from the top\n")
    Device("v1.5", "ssh://other").add()
    assert file.read_text().startswith("# in the rack\n[pi5]\nurl = 'ssh://pi5' # second from the top\n")
    assert list(Device.saved()) == ["pi5", "v1.5"]
    Device.remove("v1.5")
    Device.remove("pi5")
    assert Device.saved() == {}
    Device("pi5", "ssh://pi5").add()
    assert list(Device.saved()) == ["pi5"]


@pytest.mark.parametrize("name", NASTY)
def test_names_that_are_refused(name: str, file: Path) -> None:
    with pytest.raises(UsageError):
        Device(name, "ssh://pi").add()
    assert not file.exists()


def test_a_name_can_be_added_only_once() -> None:
    Device("pi", "ssh://one").add()
    with refuses(UsageError, "ssh://one", "edgekit devices remove pi"):
        Device("pi", "ssh://two").add()


def test_local_and_addresses_need_no_file() -> None:
    assert Device.find("local") == THIS
    assert Device.find("ssh://pi@host").address == Address("host", "pi")


def test_an_unknown_device_lists_the_valid_names() -> None:
    Device("pi5", "ssh://pi5").add()
    with refuses(UsageError, "'pi'") as caught:
        Device.find("pi")
    assert caught.value.valid.startswith("local, pi5, ")
    assert "'pi5'" in caught.value.fix
    assert "edgekit devices add" in caught.value.fix


@pytest.mark.parametrize(
    "text",
    ["[", "pi = 1", "[pi]\nurl = 3", "[pi]\nclass = 'x'", "[pi]\nurl='ssh://a'\nport=3", "['p i']\nurl='ssh://a'",
     "[pi]\nurl='web'\nweb_network='ftp'", "[pi]\nurl='web'\ntrust='x'",
     "[pi]\nurl='file:///x'"],
)  # fmt: skip
def test_a_damaged_file_is_refused(text: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UsageError):
        Device.saved()


def test_a_setting_of_an_older_version_is_named_with_what_replaces_it(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("[pi]\nurl = 'ssh://pi'\noffline = true\n")
    with refuses(UsageError, "'pi'", "Delete `offline`", "'wheels'"):
        Device.saved()


def test_a_file_that_cannot_be_written(file: Path) -> None:
    file.parent.write_text("a file where the folder should be")
    with pytest.raises((OutputError, UsageError)):
        Device("pi", "ssh://pi").add()


def test_the_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEKIT_DEVICES_FILE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    assert devices_file() == tmp_path / "configuration" / "edgekit" / "devices.toml"
    for unset in (True, False):
        monkeypatch.delenv("XDG_CONFIG_HOME") if unset else monkeypatch.setenv("XDG_CONFIG_HOME", "")
        assert devices_file() == tmp_path / "home" / ".config" / "edgekit" / "devices.toml"
