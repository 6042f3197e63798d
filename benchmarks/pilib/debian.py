"""Unpacks Debian for arm64 on this machine: a userland, a kernel and Python packages.

They come from the mirror and the package index that this machine's own apt and pip use, and are cached in a folder.
Unpacking runs no programs of the other architecture.

    python -m benchmarks.pilib.debian

unpacks all userlands ahead of time. It needs Python's standard library alone, so CI runs it while pip
installs everything else.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.support.files import replacing

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "emulated"
"""Folder of the cache."""
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""Available releases of Debian, with their Python."""
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
    "cpio": "cpio",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}
"""Debian package of each program."""
_PACKAGES = (
    "base-files", "base-passwd", "bash", "dash", "coreutils", "sed", "grep", "mawk", "hostname", "procps", "libc-bin",
    "libstdc++6", "libgomp1", "python3", "python3-venv",
)  # fmt: skip
_LEFT_OUT = ("doc", "info", "locale", "man")
_COMPILE = """
import compileall, re, sys
if "%d.%d" % sys.version_info[:2] == sys.argv[2]:
    compileall.compile_dir(sys.argv[1], quiet=2, rx=re.compile("/tests/"))
"""


class NotHereError(Exception):
    """This machine lacks something; the message names it, and the command that installs it."""


def need(*programs: str) -> None:
    """Raise NotHereError unless these programs are installed and this process may unpack for another architecture."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotHereError("an emulated Raspberry Pi is built from Debian's packages, which needs Debian and root")
    missing = [PROGRAMS[name] for name in programs if shutil.which(name) is None]
    if missing:
        raise NotHereError(f"missing programs: apt-get install --no-install-recommends {' '.join(missing)}")


def userland(suite: str) -> Path:
    """Return a root folder with Debian's arm64 Python and a shell, unpacked but not configured (90 MB)."""
    need("mmdebstrap", "arch-test")
    root = KEPT / suite
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f".{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _unpack_userland(suite, root)
    return root


def _unpack_userland(suite: str, root: Path) -> None:
    with replacing(root) as beside:
        command = ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract"]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr", f"--include={','.join(_PACKAGES)}"]
        _run([*command, suite, str(beside), _mirror()])
        for name in _LEFT_OUT:  # faster than mmdebstrap's own filter, which is written in Perl
            shutil.rmtree(beside / "usr/share" / name)
        _links(beside)
        compile_modules(beside / "usr/lib" / f"python{PYTHONS[suite]}", PYTHONS[suite])


def kernel() -> Path:
    """Return Debian's arm64 kernel of this machine's own release, in the format that QEMU boots."""
    need("qemu-system-aarch64")
    image = KEPT / "vmlinuz"
    if not image.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as scratch:
            # Separate lists and caches keep the other architecture out of this machine's apt.
            (Path(scratch) / "partial").mkdir()
            options = ["APT::Architecture=arm64", "APT::Architectures=arm64", f"Dir::State::Lists={scratch}"]
            options += ["Dir::State::Status=/dev/null", f"Dir::Cache={scratch}", "APT::Sandbox::User=root"]
            apt = [word for option in options for word in ("-o", option)]
            _run(["apt-get", *apt, "-qq", "update"])
            depends = _run(["apt-cache", *apt, "depends", "linux-image-arm64"]).split()
            name = next(word for word in depends if word.startswith("linux-image-") and word != "linux-image-arm64")
            _run(["apt-get", *apt, "-qq", "download", name], cwd=scratch)
            (package,) = Path(scratch).glob("linux-image-*.deb")
            _unpack_kernel(package, Path(scratch) / "vmlinuz")
            (Path(scratch) / "vmlinuz").replace(image)
    return image


def packages(suite: str, name: str, requirements: Sequence[str], dependencies: bool = True) -> Path:
    """Return a folder of packages for a release's Python, which this machine's pip downloads by constraints.txt."""
    place = KEPT / f"{suite}-{name}"
    if not place.exists():
        version = PYTHONS[suite]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:"]
        command += [] if dependencies else ["--no-deps"]
        command += [
            "--implementation",
            "cp",
            "--python-version",
            version,
            "--constraint",
            str(ROOT / "constraints.txt"),
        ]
        command += [word for abi in (f"cp{version.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
        # Debian 12 has glibc 2.36.
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)] + ["manylinux2014_aarch64"]
        command += [word for platform in platforms for word in ("--platform", platform)]
        KEPT.mkdir(parents=True, exist_ok=True)
        with replacing(place) as beside:
            _run([*command, "--target", str(beside), *requirements])
            compile_modules(beside, version)
    return place


def compile_modules(folder: Path, version: str) -> None:
    """Compile Python modules if this machine has that version of Python: an emulated one takes ten times as long.

    Leaves out tests, which nothing imports.
    """
    for python in filter(None, map(shutil.which, (sys.executable, f"/usr/bin/python{version}"))):
        _run([python, "-c", _COMPILE, str(folder), version])


def _mirror() -> str:
    """Return the mirror of Debian that this machine's apt uses."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(SITE)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]
    sites = _run(command).split()
    if not sites:
        raise NotHereError("apt has no mirror of Debian; run apt-get update")
    return sites[0]


def _links(root: Path) -> None:
    """Create the links, users, certificates and folders that the packages' own scripts would create."""
    for link, target in (("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash")):
        if not (root / link).exists():
            (root / link).symlink_to(target)
    certificates = (path.read_text() for path in sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt")))
    (root / "etc/ssl/certs/ca-certificates.crt").write_text("".join(certificates))  # pip starts only with this file
    for name in ("passwd", "group"):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text()
        (root / "etc" / name).write_text(text.replace("root:*:", "root:x:"))
    for name in ("proc", "sys", "dev", "tmp", "root"):
        (root / name).mkdir(exist_ok=True)


def _unpack_kernel(package: Path, image: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                if member.name.startswith("./boot/vmlinuz-"):
                    file = archive.extractfile(member)
                    assert file is not None
                    image.write_bytes(file.read())
                    break
        process.kill()


def _run(command: Sequence[str], cwd: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    for suite in PYTHONS:
        userland(suite)
