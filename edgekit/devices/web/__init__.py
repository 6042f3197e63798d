"""Browsers as devices: a page that edgekit serves runs LiteRT bundles, and edgekit judges what it returns.

Each browser of a command has a page at its own address, which the terminal shows with a QR code. Browsers can do what
`edgekit benchmark`, `deploy` and `evaluate` need. The page runs the WebAssembly of LiteRT.js, whose package npm
downloads once, or the user names its file.
"""

import gzip
import hashlib
import io
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import sysconfig
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from edgekit.config.runtimes import Runtime
from edgekit.devices.registry import Device, closing
from edgekit.errors import MissingExtraError, OutputError, UsageError
from edgekit.measure.evaluation import BundleEvaluation
from edgekit.measure.gates import Group
from edgekit.measure.settings import Timing
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import replacing
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter

if TYPE_CHECKING:
    from edgekit.devices.web.browser import Browser
    from edgekit.devices.web.server import PageServer

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
PACKAGES = ("aiohttp", "cryptography", "segno")
"""Packages that the extra `web` brings."""
ACCEPT = "The browser warns of the certificate, which was made for this command: choose to go on to the page.\n"
OVER_HTTP = "Whoever is in the network can read along, and answer for the phone: --web-network https encrypts.\n"


class Pages:
    """The pages of one command; `serving` creates them."""

    def __init__(self, runtime: Path, reporter: Reporter, stack: ExitStack) -> None:
        self._runtime, self._reporter, self._stack = runtime, reporter, stack
        self._servers: dict[Device, PageServer] = {}

    def browser(self, device: Device, threads: int | None) -> "Browser":
        """The browser of a device; the first call shows an address and waits. Raises BrowserError if none comes."""
        from edgekit.devices.web.browser import Browser
        from edgekit.devices.web.server import PageServer

        if device not in self._servers:
            scheme = device.web_network or "http"
            host, (here, *others) = (EVERYWHERE, own_addresses()) if device.web_network else (LOOPBACK, [LOOPBACK])
            tls = own_certificate([here, *others, LOOPBACK]) if scheme == "https" else None
            server = PageServer(device.name, self._runtime, host, tls)
            self._stack.enter_context(closing(server.close))
            self._servers[device] = server
            self._reporter.prompt(invitation(device.name, f"{scheme}://{here}:{server.port}{server.path}", others))
        with self._reporter.stage(f"{device.name}: wait for a browser"):
            self._servers[device].joined()
        return Browser(device, self._servers[device], self._runtime, threads, self._reporter)


@contextmanager
def serving(devices: Sequence[Device], reporter: Reporter) -> Iterator[Pages | None]:
    """Yields the pages for the browsers among the devices, or None if there is no browser.

    Raises MissingExtraError before anything else is done if the extra `web` or LiteRT.js is missing.
    """
    browsers = [device for device in devices if device.is_browser]
    if not browsers:
        yield None
        return
    for package in PACKAGES:
        import_needed(package, "web")
    named = [Path(browser.web_runtime) for browser in browsers if browser.web_runtime]
    runtime = runtime_files(named[0] if named else None)
    with ExitStack() as stack:
        yield Pages(runtime, reporter, stack)


def invitation(name: str, address: str, others: Sequence[str] = ()) -> str:
    """Asks to open the page at an address, on this machine or, with a QR code, on a phone in its network.

    `others` are further IP addresses of this machine.
    """
    scheme, host, port = (url := urlsplit(address)).scheme, url.hostname, url.port
    if host == LOOPBACK:
        return (
            f"{name}: open this page in a browser on this machine, and keep it in front:\n\n  {address}\n\n"
            f"A phone on a cable opens it after `adb reverse tcp:{port} tcp:{port}`. "
            "For a phone in the same network, add `--web-network http` to the command, or https."
        )
    segno = import_needed("segno", "web")
    code = io.StringIO()
    besides = f"If the phone can't open it, replace {host} with {' or '.join(others)}.\n" if others else ""
    segno.make(address, error="l").terminal(code, compact=True)
    return (
        f"{name}: open this page on the phone, which must be in the same network, and keep it in front:\n\n"
        f"  {address}\n\n{code.getvalue()}\n{besides}{ACCEPT if scheme == 'https' else OVER_HTTP}"
        f"On this machine: {scheme}://{LOOPBACK}:{port}{url.path}"
    )


def own_addresses() -> list[str]:
    """The addresses of this machine in its networks; no packet is sent to find them.

    The first is that of the default route, which may be a tunnel that no phone reaches.
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, which no machine has
            first = [probe.getsockname()[0]]
        except OSError:
            first = []
    found = [
        each.address for network in psutil.net_if_addrs().values() for each in network if each.family == socket.AF_INET
    ]
    return list(dict.fromkeys(first + [each for each in found if not each.startswith("127.")])) or [LOOPBACK]


VALID = timedelta(days=2)


def own_certificate(addresses: Sequence[str]) -> ssl.SSLContext:
    """A server's context with a new key, and a certificate for these IP addresses that no authority has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgekit")])
    alternatives = [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # the phone's clock may be behind
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:  # for this user only
        file = Path(folder) / "certificate.pem"
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)
    return context


def evaluate_in_browser(
    device: Device,
    paths: Sequence[Path],
    reference: Path | None,
    threads: int | None,
    evaluate: Callable[..., BundleEvaluation],
    reporter: Reporter,
) -> BundleEvaluation:
    """Let `evaluate`, which is `evaluate_bundles`, run the bundles for LiteRT in a browser. BrowserError if that fails.

    Raises UsageError for a reference that browsers can't run, since another bundle must not take its place.
    """
    runnable = runnable_on(device, {str(path): read_bundle(path) for path in paths}, reporter)
    if reference:
        check_reference(device, read_bundle(reference))
    with serving([device], reporter) as pages:
        assert pages is not None
        browser = cache(partial(pages.browser, device, threads))
        evaluation = evaluate([path for path in paths if str(path) in runnable], elsewhere=browser)
        browser().finish(evaluation.results)
        return evaluation


BROWSER_TARGET = "tflite"
"""The runtime whose bundles browsers run."""


def check_browsers(devices: Sequence[Device], timing: Timing, targets: Sequence[str] = (BROWSER_TARGET,)) -> None:
    """Raise UsageError if there is a browser among the devices and the job has something that browsers can't do."""
    browser = next((device.name for device in devices if device.is_browser), None)
    if browser is None:
        return
    measured_elsewhere = {"--sustain": timing.sustain_s, "--streams": timing.streams, "--camera": timing.camera}
    for option, value in measured_elsewhere.items():
        if value is not None:
            raise UsageError(f"{option} doesn't work in a browser, as '{browser}' is", fix=f"Leave out `{option}`")
    if other := [target for target in targets if target != BROWSER_TARGET]:
        raise UsageError(
            f"'{browser}' is a browser, which can't run bundles for {', '.join(other)}",
            valid=f"--target {BROWSER_TARGET} for a job with a browser",
        )


def runnable_on(device: Device, bundles: Group, reporter: Reporter) -> Group:
    """The bundles that a device can run: a browser runs those for LiteRT. Raises UsageError if it can run none."""
    if not device.is_browser:
        return bundles
    runnable = {name: bundle for name, bundle in bundles.items() if bundle.manifest.target == BROWSER_TARGET}
    if not runnable:
        raise UsageError(
            f"'{device.name}' is a browser, and none of the bundles is for {Runtime.find(BROWSER_TARGET).title}",
            valid=f"bundles that were made with --target {BROWSER_TARGET}",
        )
    if others := [name for name in bundles if name not in runnable]:
        reporter.say(f"{device.name}: a browser runs bundles for LiteRT only, so it skips {', '.join(others)}")
    return runnable


def check_reference(device: Device, bundle: Bundle) -> None:
    """Raise UsageError if a browser can't run the bundle that others are to be compared with."""
    target = bundle.manifest.target
    if target != BROWSER_TARGET:
        raise UsageError(
            f"'{device.name}' is a browser, which can't run the reference '{bundle.path}', a bundle for "
            f"{Runtime.find(target).title}",
            valid=f"a bundle that was made with --target {BROWSER_TARGET}",
            fix="Name such a bundle with `--reference`, or leave `--reference` out to compare with the first float one",
        )


NAME, VERSION = "@litertjs/core", "2.5.3"
LICENSE = "Apache-2.0"
INTEGRITY = "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
"""Hash of the package's file, as npm writes it."""
HOW = f"Get it with `npm pack {NAME}@{VERSION}` on any machine, and name it with `--web-runtime FILE`"
TIMEOUT_S = 300

BuildName = Literal["relaxed", "compat", "threaded"]
STEMS: dict[BuildName, str] = {
    "relaxed": "litert_wasm_internal",
    "compat": "litert_wasm_compat_internal",
    "threaded": "litert_wasm_threaded_internal",
}
"""Names of the files of each build in the package, without their suffixes."""


def runtime_files(package: Path | None = None) -> Path:
    """Folder with a script, its WebAssembly and that in gzip for each build of LiteRT.js.

    They are in the cache, or in the file of its package, which npm downloads if none is named.

    Raises UsageError if the file is another one, and MissingExtraError if there is none and npm can't download it.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("edgekit", appauthor=False) / f"litertjs-{VERSION}"
    if package is not None:
        check_package(package)
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="edgekit-") as downloads, replacing(folder) as unpacked:
                _unpack(package or _download(Path(downloads)), unpacked)
        except OSError as error:
            fix = "Set the environment variable XDG_CACHE_HOME to another folder"
            raise OutputError(f"can't write '{folder}': {error.strerror or error}", fix=fix) from error
    return folder


def check_package(package: Path) -> None:
    """Raise UsageError unless this is the very file that edgekit was tested with."""
    valid = f"the package file of {NAME} {VERSION}"
    try:
        if not _is_tested(package):
            raise UsageError(f"--web-runtime is '{package}', another file than expected", valid=valid, fix=HOW)
    except OSError as error:
        problem = f"--web-runtime is '{package}': {error.strerror or error}"
        raise UsageError(problem, valid=valid, fix=HOW) from None


def _is_tested(package: Path) -> bool:
    """Whether a file is the one that edgekit was tested with."""
    return f"sha512-{b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()}" == INTEGRITY


def _download(folder: Path) -> Path:
    """Let npm download the package. npm reads the user's own configuration, such as that of a mirror."""
    beside = Path(sysconfig.get_path("scripts")) / "npm"
    npm = str(beside) if beside.is_file() else shutil.which("npm")
    needed = f"browsers need {NAME} {VERSION}, which is not in edgekit's cache"
    if npm is None:
        raise MissingExtraError(f"{needed}, and npm is not installed", fix=f"Install npm. Or: {HOW}")
    command = [npm, "pack", f"{NAME}@{VERSION}", "--json", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        problem = f"npm didn't answer within {TIMEOUT_S} s"
    else:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        problem = f"npm failed: {lines[0].removeprefix('npm error ') if lines else done.stderr.strip()[-200:]}"
        if done.returncode == 0:
            package = folder / str(json.loads(done.stdout)[0]["filename"])
            if _is_tested(package):
                return package
            problem = f"npm brought another file for {NAME} {VERSION} than edgekit was tested with"
            raise MissingExtraError(problem, fix=f"Check the registry in npm's configuration. Or: {HOW}")
    raise MissingExtraError(f"{needed}, and {problem}", fix=HOW)


def _unpack(package: Path, folder: Path) -> None:
    """Take the builds that edgekit serves out of the package, the large files in gzip, too."""
    folder.mkdir()
    with tarfile.open(package) as archive:
        for stem in STEMS.values():
            for suffix in (".js", ".wasm"):
                member = archive.extractfile(f"package/wasm/{stem}{suffix}")
                assert member is not None
                content = member.read()
                (folder / f"{stem}{suffix}").write_bytes(content)
                (folder / f"{stem}{suffix}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
