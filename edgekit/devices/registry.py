"""The user's devices, in a TOML file that `edgekit devices add` and `remove` edit; and work on several at once.

    [pi5]
    url = "ssh://pi@raspberrypi.local"
    class = "raspberry-pi-5"
    ssh_config = "/home/me/lab/ssh_config"
    trust = "-----BEGIN PUBLIC KEY-----..."
    wheels = "/home/me/wheels"

    [phone]
    url = "web"
    web_network = "https"
    web_runtime = "/home/me/litertjs-core-2.5.3.tgz"

The file is edgekit/devices.toml in the user's configuration folder, or the one that EDGEKIT_DEVICES_FILE names.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any, Literal, TypeVar

from edgekit.errors import OutputError, SignatureError, UsageError, as_sentences, did_you_mean
from edgekit.support.files import replace_text

LOCAL = "local"
WEB = "web"
"""Name of a browser, and address of a saved one. `web:NAME` is the name of a browser, too."""
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
    """ssh:// address, "web" for a browser, or None for this machine."""
    device_class: str | None = None
    """Name of the device class that the user set."""
    ssh_config: str | None = None
    """Path of the ssh configuration to use instead of the user's own."""
    trust: str | None = None
    """PEM text of the public key with which bundles for the device are signed; None to push unsigned ones too."""
    wheels: str | None = None
    """Path of a folder with the device's packages; None to let this machine's pip download them."""
    web_network: PageScheme | None = None
    """How the network reaches the page for a browser; None to serve it to this machine alone."""
    web_runtime: str | None = None
    """Path of the package file of LiteRT.js for a browser; None to let npm download it."""

    @property
    def is_browser(self) -> bool:
        """Whether it is a browser, which opens a page of edgekit's."""
        return self.url == WEB

    @property
    def address(self) -> Address:
        """SSH address of a device with a URL."""
        assert self.url is not None
        return parse_url(self.url)

    @staticmethod
    def saved() -> "dict[str, Device]":
        """The user's devices by name; UsageError if the file is damaged."""
        import msgspec  # `--help` must do without

        path = devices_file()
        try:
            tables = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, object]])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UsageError(f"the devices file '{path}' can't be read: {error}", fix="Correct or delete it") from error
        return {name: _device(name, table, path) for name, table in tables.items()}

    @classmethod
    def find(
        cls,
        name: str,
        wheels: Path | None = None,
        web_network: PageScheme | None = None,
        web_runtime: Path | None = None,
    ) -> "Device":
        """The device with this name or ssh:// address, and with the settings that a command adds to the saved ones.

        Raises UsageError with the valid names if it doesn't exist.
        """
        if name == LOCAL:
            return THIS
        if device := browser_called(name):
            pass
        elif name.startswith(SCHEME):
            parse_url(name)
            device = Device(name, name)
        elif not (device := (devices := cls.saved()).get(name)):
            names = (LOCAL, *devices)
            raise UsageError(
                f"unknown device '{name}'",
                valid=f"{', '.join(names)}, or an address ssh://USER@HOST",
                fix=as_sentences(
                    did_you_mean(name, names), "Run `edgekit devices add NAME ssh://USER@HOST` to add one"
                ),
            )
        if not device.is_browser:
            return replace(device, wheels=str(wheels) if wheels else device.wheels)
        runtime = str(web_runtime) if web_runtime else device.web_runtime
        return replace(device, web_network=web_network or device.web_network, web_runtime=runtime)

    @classmethod
    def find_machine(cls, name: str, wheels: Path | None = None) -> "Device":
        """Like `find`, but UsageError for a browser."""
        device = cls.find(name, wheels)
        if device.is_browser:
            raise UsageError(
                f"'{name}' is a browser", valid="a machine for this command; `edgekit benchmark` measures in browsers"
            )
        return device

    def add(self) -> None:
        """Save the device in the file; UsageError if its name exists or is not valid, or its address is wrong."""
        _check(self)
        if self.ssh_config is not None and not Path(self.ssh_config).is_file():
            raise UsageError(
                f"--ssh-config is '{self.ssh_config}', which doesn't exist", valid="an ssh configuration file"
            )
        with _editing() as (devices, tables):
            if self.name in devices:
                raise UsageError(
                    f"device '{self.name}' exists already ({devices[self.name].url})",
                    fix=f"Choose another name, or run `edgekit devices remove {self.name}` first",
                )
            tables[self.name] = {key: value for key, value in settings_of(self).items() if value and key != "name"}

    @staticmethod
    def remove(name: str) -> None:
        """Remove a device from the file; UsageError if it isn't there."""
        with _editing() as (devices, tables):
            if name not in devices:
                problem = f"device '{name}' doesn't exist" + ("" if devices else ", and no other device was added yet")
                raise UsageError(problem, valid=", ".join(devices))
            del tables[name]


@dataclass(frozen=True, kw_only=True)
class DeviceListing:
    """The document of `edgekit devices list`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    devices: tuple[Mapping[str, str | None], ...]
    """Name and settings of each device, with the keys of the file and in its order; null stands for the default."""

    def page(self) -> Iterator[str]:
        """A line for each device."""
        for device in self.devices:
            facts = {**device, "trust": device["trust"] and fingerprint_of(device["trust"])}
            yield "  ".join(text.format(facts[name]) for name, text in _SHOWN.items() if facts[name])
        if not self.devices:
            yield NO_DEVICES


_SHOWN = {
    "name": "{}",
    "url": "{}",
    "class": "{}",
    "ssh_config": "configuration {}",
    "trust": "trusts the key {}",
    "wheels": "packages from {}",
    "web_network": "served over {}",
    "web_runtime": "LiteRT.js from {}",
}
"""How a list of devices shows each setting."""
NO_DEVICES = "no devices: add one with edgekit devices add NAME ssh://USER@HOST"
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


def list_devices() -> DeviceListing:
    """The user's devices as a document."""
    return DeviceListing(devices=tuple(map(settings_of, Device.saved().values())))


def saved_machines() -> list[str]:
    """Names of the user's devices that are no browsers."""
    return [name for name, device in Device.saved().items() if not device.is_browser]


def browser_called(name: str) -> Device | None:
    """The browser with this name, `web` or `web:NAME`; None for another name. UsageError if NAME is not valid."""
    kind, colon, own = name.partition(":")
    if kind != WEB or own.startswith("//"):
        return None
    if colon and not _NAME.fullmatch(own):
        raise UsageError(f"the browser's name is '{own}'", valid="1 to 64 letters, digits, '.', '_' and '-'")
    return Device(name, WEB)


def find_remote(name: str, wheels: Path | None = None) -> Device:
    """Like `Device.find_machine`, but UsageError for `local`."""
    if name == LOCAL:
        raise UsageError(f"'{LOCAL}' is this machine", valid="the name of a device over SSH, or ssh://USER@HOST")
    return Device.find_machine(name, wheels)


def settings_of(device: Device) -> dict[str, str | None]:
    """A device's name and settings, with the keys of the file."""
    return {"class" if key == "device_class" else key: value for key, value in asdict(device).items()}


def _device(name: str, table: dict[str, object], path: Path) -> Device:
    from msgspec import ValidationError, convert

    values = {"device_class" if key == "class" else key: value for key, value in table.items()} | {"name": name}
    try:
        if unknown := values.keys() - vars(THIS).keys():
            raise ValidationError(f"unknown keys {', '.join(sorted(unknown))}")
        device = convert(values, Device)
    except ValidationError as error:
        raise UsageError(
            f"device '{name}' in '{path}' is not valid: {error}",
            valid="a table with 'url' and the settings that `edgekit devices add` writes",
            fix="Delete `offline`: packages are always copied from this machine, and 'wheels' may name their folder"
            if "offline" in table
            else "Correct or delete it",
        ) from error
    _check(device)
    return device


def _check(device: Device) -> None:
    """Raise UsageError unless a device has a valid name and address, and only settings that suit them."""
    if not _NAME.fullmatch(device.name) or device.name in (LOCAL, WEB):
        raise UsageError(
            f"the device's name is {device.name!r}",
            valid="1 to 64 letters, digits, '.', '_' and '-', starting with a letter or digit, other than "
            f"'{LOCAL}', which is this machine, and '{WEB}', which is a browser",
        )
    kind, others = "a browser", ["device_class", "ssh_config", "trust", "wheels"]
    if not device.is_browser:
        kind, others = "a machine over SSH", ["web_network", "web_runtime"]
        parse_url(device.url or "")
    for name in others:
        if getattr(device, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} doesn't suit '{device.name}', which is {kind}", fix=f"Leave out `{option}`")


@contextmanager
def _editing() -> Iterator[tuple[Mapping[str, Device], MutableMapping[str, Any]]]:
    """Yields the devices and their tables in the file, which is written when the block ends. The user's comments stay.

    Other processes that edit the file wait. If it is a link, the file that it points to is replaced.
    """
    import tomlkit
    from filelock import FileLock

    path = devices_file().resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            devices = Device.saved()
            document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
            yield devices, document
            replace_text(path, tomlkit.dumps(document))
    except OSError as error:
        raise OutputError(
            f"can't write the devices file '{path}': {error.strerror or error}",
            fix="Set the environment variable EDGEKIT_DEVICES_FILE to another path",
        ) from error


def fingerprint_of(pem: str) -> str:
    """Fingerprint of a key by its PEM text, as signatures name their key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def other_key(own: str, sent: str, folder: str) -> SignatureError:
    """The error for a device whose key, in `folder`, is not the one that the host sent."""
    return SignatureError(
        f"the device trusts the key {fingerprint_of(own)}, and this machine has the key {fingerprint_of(sent)} for it",
        fix=f"If you have a new key, delete {folder}/trust.pem on the device, and push again",
    )


T = TypeVar("T")
_open: set[Callable[[], None]] = set()
_ends = Event()


@contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """Close a connection to devices when the block ends, or earlier if `close_all` is called.

    Raises KeyboardInterrupt while the threads of a command end, so that none of them connects again.
    """
    _open.add(close)
    try:
        if _ends.is_set():
            raise KeyboardInterrupt
        yield
    finally:
        close()
        _open.discard(close)


def close_all() -> None:
    """Close every connection of this process. Work in progress fails with the error of a lost device."""
    _ends.set()
    for close in list(_open):
        close()


def in_threads(devices: Sequence[Device], work: Callable[[Device], T], at_once: int) -> list[T]:
    """Work on devices in threads. Ctrl-C, or an exception in one, closes every connection, which ends the others."""
    try:
        with ThreadPoolExecutor(at_once, "device") as pool:
            futures = [pool.submit(work, device) for device in devices]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                close_all()
                raise
    finally:
        _ends.clear()
    return [future.result() for future in futures]


def each_device(devices: Sequence[Device], measure: Callable[[Device], Sequence[T]]) -> list[T]:
    """Measure every device. Returns the rows in the order of the devices.

    This machine is measured last, because copying and listening for the others would distort its figures.
    """
    others = [device for device in devices if device != THIS]
    if len(others) < 2:
        return list(chain.from_iterable(map(measure, devices)))
    rows = dict(zip(others, in_threads(others, measure, len(others)), strict=True))
    if THIS in devices:
        rows[THIS] = measure(THIS)
    return list(chain.from_iterable(map(rows.__getitem__, devices)))
