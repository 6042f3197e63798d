"""The user's devices, in a TOML file that `edgekit devices add` and `remove` edit.

    [pi5]
    url = "ssh://pi@raspberrypi.local"
    class = "raspberry-pi-5"
    ssh_config = "/home/me/lab/ssh_config"
    trust = "-----BEGIN PUBLIC KEY-----..."

The file is edgekit/devices.toml in the user's configuration folder, or the one that EDGEKIT_DEVICES_FILE names.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import OutputError, UsageError, as_sentences, did_you_mean
from edgekit.support.files import replace_text

LOCAL = "local"
WEB = "web"
"""Name of a browser. `web:NAME` is one, too."""
SCHEME = "ssh://"
PageScheme = Literal["http", "https"]
"""How the network reaches the page for a browser."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# No leading '-', because ssh would parse such a host or user as an option.
_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.$+-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%a-z]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True)
class Address:
    """SSH host, user and port. The user's ssh configuration supplies those that are None."""

    host: str
    """Host name, IP address, or alias in the ssh configuration."""
    user: str | None = None
    """User name on the host."""
    port: int | None = None
    """TCP port."""


@dataclass(frozen=True)
class Device:
    """A machine to measure on: one that ssh reaches, this machine, or a browser."""

    name: str
    """Name for `--device`."""
    url: str | None = None
    """ssh:// address, the address that serves the page for a browser, or None for this machine."""
    device_class: str | None = None
    """Name of the device class that the user set."""
    ssh_config: str | None = None
    """Path of the ssh configuration to use instead of the user's own."""
    web_runtime: Path | None = None
    """Package file of LiteRT.js for a browser; None to let npm download it."""
    trust: str | None = None
    """PEM text of the public key with which bundles for the device are signed; None to push unsigned ones too."""

    @property
    def is_browser(self) -> bool:
        """Whether it is a browser, which opens a page of edgekit's."""
        return self.url is not None and self.url.startswith("http")

    @property
    def address(self) -> Address:
        """SSH address of a device with a URL."""
        assert self.url is not None
        return parse_url(self.url)


THIS = Device(LOCAL)
"""The machine that edgekit runs on."""


def parse_url(url: str) -> Address:
    """Parse ssh://ALIAS or ssh://USER@HOST:PORT; UsageError for anything else."""
    match = _URL.fullmatch(url)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise UsageError(
            f"the device's address is '{url}'",
            valid="ssh://USER@HOST:PORT, where USER and PORT are optional, or ssh://ALIAS with an alias from your ssh "
            "configuration",
        )
    return Address(match["host"].strip("[]"), match["user"], port)


def devices_file() -> Path:
    """Path of the devices file."""
    path = os.environ.get("EDGEKIT_DEVICES_FILE")
    if path:
        return Path(path)
    from platformdirs import user_config_path

    return user_config_path("edgekit", appauthor=False) / "devices.toml"


def read_devices() -> dict[str, Device]:
    """The user's devices by name; UsageError if the file is damaged."""
    path = devices_file()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"the devices file '{path}' can't be read: {error}", fix="Correct or delete it") from error
    return {name: _device(name, table, path) for name, table in tables.items()}


def browser_called(name: str, web_runtime: Path | None = None, web_network: PageScheme | None = None) -> Device | None:
    """The browser with this name, `web` or `web:NAME`; None for another name. UsageError if NAME is not valid.

    Its page is for this machine alone, unless the network may reach it.
    """
    kind, colon, own = name.partition(":")
    if kind != WEB or own.startswith("//"):
        return None
    if colon and not _NAME.fullmatch(own):
        raise UsageError(f"the browser's name is '{own}'", valid="1 to 64 letters, digits, '.', '_' and '-'")
    url = "http://127.0.0.1" if web_network is None else f"{web_network}://0.0.0.0"
    return Device(name, url, web_runtime=web_runtime)


def find_device(name: str) -> Device:
    """The device with this name or ssh:// address; UsageError with the valid names if it doesn't exist."""
    if name == LOCAL:
        return THIS
    if browser_called(name):
        raise UsageError(
            f"'{name}' is a browser", valid="a machine for this command; `edgekit benchmark` measures in browsers"
        )
    if name.startswith(SCHEME):
        parse_url(name)
        return Device(name, name)
    devices = read_devices()
    if name in devices:
        return devices[name]
    names = (LOCAL, *devices)
    raise UsageError(
        f"unknown device '{name}'",
        valid=f"{', '.join(names)}, or an address ssh://USER@HOST",
        fix=as_sentences(did_you_mean(name, names), "Run `edgekit devices add NAME ssh://USER@HOST` to add one"),
    )


def find_remote(name: str) -> Device:
    """Like `find_device`, but UsageError for `local`."""
    if name == LOCAL:
        raise UsageError(f"'{LOCAL}' is this machine", valid="the name of a device over SSH, or ssh://USER@HOST")
    return find_device(name)


def add_device(device: Device) -> None:
    """Add a device to the file; UsageError if its name exists or is not valid, or its address is wrong."""
    check_name(device.name)
    devices = read_devices()
    if device.name in devices:
        raise UsageError(
            f"device '{device.name}' exists already ({devices[device.name].url})",
            fix=f"Choose another name, or run `edgekit devices remove {device.name}` first",
        )
    assert device.url is not None
    parse_url(device.url)
    if device.ssh_config is not None and not Path(device.ssh_config).is_file():
        raise UsageError(
            f"--ssh-config is '{device.ssh_config}', which doesn't exist", valid="an ssh configuration file"
        )
    values = {"url": device.url, "class": device.device_class, "ssh_config": device.ssh_config, "trust": device.trust}
    with _editing() as tables:
        tables[device.name] = {key: value for key, value in values.items() if value is not None}


def remove_device(name: str) -> None:
    """Remove a device from the file; UsageError if it isn't there."""
    devices = read_devices()
    if name not in devices:
        problem = f"device '{name}' doesn't exist" + ("" if devices else ", and no other device was added yet")
        raise UsageError(problem, valid=", ".join(devices))
    with _editing() as tables:
        del tables[name]


def check_name(name: str) -> None:
    """Raise UsageError for a name that doesn't suit tables, files and messages."""
    if not _NAME.fullmatch(name) or name in (LOCAL, WEB):
        raise UsageError(
            f"the device's name is {name!r}",
            valid="1 to 64 letters, digits, '.', '_' and '-', starting with a letter or digit, other than "
            f"'{LOCAL}', which is this machine, and '{WEB}', which is a browser",
        )


def _device(name: str, table: object, path: Path) -> Device:
    values: Mapping[str, Any] = table if isinstance(table, dict) else {}
    strings = all(isinstance(value, str) for value in values.values())
    if "url" not in values or not strings or values.keys() - {"url", "class", "ssh_config", "trust"}:
        raise UsageError(
            f"device '{name}' in '{path}' is not valid",
            valid="a table with the string 'url' and, optionally, the strings 'class', 'ssh_config' and 'trust'",
            fix="Correct or delete it",
        )
    check_name(name)
    parse_url(values["url"])
    return Device(name, values["url"], values.get("class"), values.get("ssh_config"), trust=values.get("trust"))


@contextmanager
def _editing() -> Iterator[MutableMapping[str, Any]]:
    """Yields the tables of the devices file, which is written when the block ends. The user's comments stay."""
    import tomlkit

    path = devices_file()
    try:
        document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
        yield document
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, tomlkit.dumps(document))
    except OSError as error:
        raise OutputError(
            f"can't write the devices file '{path}': {error.strerror or error}",
            fix="Set the environment variable EDGEKIT_DEVICES_FILE to another path",
        ) from error
