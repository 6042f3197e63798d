"""Debian for arm64, unpacked on this machine: a userland, a kernel, and Python packages.

They come from the mirror and the package index that this machine's own apt and pip use, and are kept in a folder.
Nothing of another architecture is run to make them.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from edgekit.support.files import replacing

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "emulated"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""The suites that can be had, and their Python."""
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
    "cpio": "cpio",
}
"""The Debian package of each program."""
_PACKAGES = (
    "base-files", "base-passwd", "bash", "dash", "coreutils", "sed", "grep", "mawk", "hostname", "procps", "libc-bin",
    "libstdc++6", "libgomp1", "python3", "python3-venv",
)  # fmt: skip
_LEFT_OUT = ("doc", "info", "locale", "man")


class NotHereError(Exception):
    """This machine can't do it; the message says what it lacks, and the command that brings it."""


def need(*programs: str) -> None:
    """NotHereError unless these programs are installed and this process may unpack for another architecture."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotHereError("an emulated Raspberry Pi is made of Debian's packages: that needs Debian, and root")
    missing = [PROGRAMS[name] for name in programs if shutil.which(name) is None]
    if missing:
        raise NotHereError(f"missing programs: apt-get install --no-install-recommends {' '.join(missing)}")


def userland(suite: str, folder: Path = KEPT) -> Path:
    """A root folder with Debian's arm64 Python and a shell, unpacked and not configured; 90 MB."""
    need("mmdebstrap", "arch-test")
    root = folder / suite
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{suite}.lock"):
        if not root.exists():
            _unpack_userland(suite, root)
    return root


def _unpack_userland(suite: str, root: Path) -> None:
    with replacing(root) as beside:
        command = ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract"]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr", f"--include={','.join(_PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT]
        _run([*command, suite, str(beside), _mirror()])
        _links(beside)


def kernel(folder: Path = KEPT) -> Path:
    """Debian's arm64 kernel of this machine's own suite, as QEMU boots it."""
    need("qemu-system-aarch64")
    image = folder / "vmlinuz"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            # Lists and caches of their own: this machine's apt never hears of the other architecture.
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


def packages(suite: str, name: str, requirements: Sequence[str], folder: Path = KEPT) -> Path:
    """A folder of Python packages for a suite's Python, fetched by this machine's pip as constraints.txt says."""
    place = folder / f"{suite}-{name}"
    if not place.exists():
        version = PYTHONS[suite]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:"]
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
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(place) as beside:
            _run([*command, "--target", str(beside), *requirements])
    return place


def _mirror() -> str:
    """The mirror of Debian that this machine's apt uses."""
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(SITE)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]
    sites = _run(asked).split()
    if not sites:
        raise NotHereError("apt knows no mirror of Debian: run apt-get update")
    return sites[0]


def _links(root: Path) -> None:
    """What the packages' scripts would have made."""
    for link, target in (("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash")):
        if not (root / link).exists():
            (root / link).symlink_to(target)
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
                    found = archive.extractfile(member)
                    assert found is not None
                    image.write_bytes(found.read())
                    break
        process.kill()


def _run(command: Sequence[str], cwd: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout
