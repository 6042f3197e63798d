"""The user's devices: a TOML file with their names, kept by `edgekit devices add` and `remove`.

    [pi5]
    url = "ssh://pi@raspberrypi.local"
    class = "raspberry-pi-5"
    ssh_config = "/home/me/lab/ssh_config"

The file is edgekit/devices.toml in the user's configuration folder; EDGEKIT_DEVICES_FILE names another place.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError, UsageError
from edgekit.support.files import replace_text

LOCAL = "local"
SCHEME = "ssh://"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# No leading '-': ssh would take such a host or user for an option.
_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.$+-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%a-z]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True)
class Address:
    """Whom to ask ssh for. What is None is left to the user's ssh configuration."""

    host: str
    """A name, an IP address, or an alias of the ssh configuration."""
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Device:
    """A machine to measure on; without a URL it is this one."""

    name: str
    url: str | None = None
    device_class: str | None = None
    ssh_config: str | None = None

    @property
    def address(self) -> Address:
        """Where ssh finds it. Only for a device with a URL."""
        assert self.url is not None
        return parse_url(self.url)


THIS = Device(LOCAL)
"""The machine that edgekit runs on."""


def parse_url(url: str) -> Address:
    """The address in ssh://ALIAS or ssh://USER@HOST:PORT; UsageError for anything else."""
    found = _URL.fullmatch(url)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65535):
        raise UsageError(
            f"the device's address is '{url}': valid is ssh://ALIAS with an alias of your ssh configuration, or "
            "ssh://USER@HOST:PORT, where USER and PORT may be left out."
        )
    return Address(found["host"].strip("[]"), found["user"], port)


def devices_file() -> Path:
    """Where the devices are kept."""
    named = os.environ.get("EDGEKIT_DEVICES_FILE")
    if named:
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("edgekit", appauthor=False) / "devices.toml"


def read_devices() -> dict[str, Device]:
    """The user's devices by name; UsageError for a file that is damaged."""
    path = devices_file()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"the devices in '{path}' can't be read: {error}. Mend the file, or remove it.") from error
    return {name: _device(name, table, path) for name, table in tables.items()}


def find_device(name: str) -> Device:
    """The device of this name, or at this ssh:// address; UsageError with the choices for any other."""
    if name == LOCAL:
        return THIS
    if name.startswith(SCHEME):
        parse_url(name)
        return Device(name, name)
    known = read_devices()
    if name in known:
        return known[name]
    near = get_close_matches(name, (LOCAL, *known), n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(
        f"unknown device '{name}': valid are {', '.join((LOCAL, *known))} and ssh://USER@HOST.{hint} "
        "Add one with: edgekit devices add NAME ssh://USER@HOST"
    )


def find_remote(name: str) -> Device:
    """The same for what only makes sense over SSH: UsageError for `local`."""
    if name == LOCAL:
        raise UsageError(f"'{LOCAL}' is this machine: give the name of a device, or ssh://USER@HOST.")
    return find_device(name)


def add_device(device: Device) -> None:
    """Write a new device into the file; UsageError for a name that is taken or not plain, or a wrong address."""
    check_name(device.name)
    known = read_devices()
    if device.name in known:
        raise UsageError(
            f"there is a device '{device.name}' already ({known[device.name].url}): choose another name, or first run: "
            f"edgekit devices remove {device.name}"
        )
    assert device.url is not None
    parse_url(device.url)
    if device.ssh_config is not None and not Path(device.ssh_config).is_file():
        raise UsageError(f"--ssh-config is '{device.ssh_config}': there is no such file.")
    values = {"url": device.url, "class": device.device_class, "ssh_config": device.ssh_config}
    with _editing() as tables:
        tables[device.name] = {key: value for key, value in values.items() if value is not None}


def remove_device(name: str) -> None:
    """Take a device out of the file; UsageError if it isn't there."""
    known = read_devices()
    if name not in known:
        raise UsageError(f"there is no device '{name}'. Known: {', '.join(known) or 'none'}.")
    with _editing() as tables:
        del tables[name]


def check_name(name: str) -> None:
    """UsageError unless a device may be called so: the name stands in tables, files and messages."""
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise UsageError(
            f"the device's name is {name!r}: valid are 1 to 64 letters, digits, '.', '_' and '-', the first a letter "
            f"or digit, and not '{LOCAL}', which is this machine."
        )


def _device(name: str, table: object, path: Path) -> Device:
    given: Mapping[str, Any] = table if isinstance(table, dict) else {}
    texts = all(isinstance(value, str) for value in given.values())
    if "url" not in given or not texts or given.keys() - {"url", "class", "ssh_config"}:
        raise UsageError(
            f"device '{name}' in '{path}': valid is a table with the texts 'url' and, if wanted, 'class' and "
            "'ssh_config'. Mend it, or remove it."
        )
    check_name(name)
    parse_url(given["url"])
    return Device(name, given["url"], given.get("class"), given.get("ssh_config"))


@contextmanager
def _editing() -> Iterator[MutableMapping[str, Any]]:
    """The tables of the devices file, which is written when the block ends. The user's comments stay."""
    import tomlkit

    path = devices_file()
    try:
        document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
        yield document
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, tomlkit.dumps(document))
    except OSError as error:
        raise OutputError(
            f"can't write the devices to '{path}': {error.strerror or error}. EDGEKIT_DEVICES_FILE names another place."
        ) from error
