"""Emulated Raspberry Pis: Debian for arm64 behind a real sshd on loopback.

QEMU runs each program on this machine's kernel. The files, processor and Python are those of a board, the speed isn't.
It needs Debian, root, and the packages that `.ci/run` installs; build/emulated caches the userland.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pilib import debian
from tests.helpers.missing import missing
from tests.helpers.pmic import PI4
from tests.helpers.ssh_server import SSHD, Server, configure, running, start

BINFMT = Path("/proc/sys/fs/binfmt_misc")
_NAME = "edgekit-aarch64"
# The magic matches 64-bit little-endian ELF programs and libraries for AArch64. Flag P preserves argv[0]; flag F opens
# the emulator on registration, so that it needn't exist inside a chroot.
_MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
MODELS = {"cortex-a76": "Raspberry Pi 5 Model B Rev 1.0", "cortex-a72": "Raspberry Pi 4 Model B Rev 1.4"}
_CLOCK_KHZ = {"cortex-a76": 2_400_000, "cortex-a72": 1_800_000}
_MIDR = {"cortex-a76": "0x00000000414fd0b1", "cortex-a72": "0x00000000410fd083"}
CORES = len(os.sched_getaffinity(0))
"""Number of cores in the emulated /sys, which must match this machine's because programs see those."""


@dataclass
class Emulated(Server):
    """A running emulated board."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "root"


def require_emulation() -> None:
    """Skip the test if this machine can't run arm64 programs, or fail in CI."""
    try:
        debian.need("mmdebstrap", "arch-test", "qemu-aarch64-static")
        if not os.path.exists(SSHD):
            raise debian.NotHereError("the OpenSSH server is missing: apt-get install openssh-server")
        _register()
    except debian.NotHereError as error:
        missing(str(error))


def _register() -> None:
    """Let the kernel run arm64 programs in QEMU. This lasts until the machine is restarted."""
    try:
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True, capture_output=True)
        if not (BINFMT / _NAME).exists():
            emulator = shutil.which("qemu-aarch64-static")
            (BINFMT / "register").write_text(f":{_NAME}:M::{_MAGIC}:{_MASK}:{emulator}:PF")
    except (OSError, subprocess.CalledProcessError) as error:
        raise debian.NotHereError(f"this kernel can't run arm64 programs in QEMU: {error}") from error


def make_root(suite: str, folder: Path) -> Path:
    """Copy the userland, so that a board may write in it."""
    root, source = folder / suite, debian.userland(suite)
    devices = str(source / "dev")  # the board uses this machine's devices
    shutil.copytree(source, root, symlinks=True, ignore=lambda place, names: names if place == devices else [])
    write_vcgencmd(root, PI4)
    return root


def compile_installed(board: Emulated, suite: str) -> None:
    """Compile the modules of environments on the board with this machine's Python, which takes a tenth of the time."""
    for packages in board.home.glob("**/site-packages"):
        debian.compile_modules(packages, debian.PYTHONS[suite])


def write_vcgencmd(root: Path, script: str) -> None:
    """Install the firmware's tool in a board's root, or replace it."""
    tool = root / "usr/local/bin/vcgencmd"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(script)
    tool.chmod(0o755)


@contextmanager
def serve_emulated(root: Path, core: str, folder: Path, keys: Path) -> Iterator[Emulated]:
    """Start an sshd whose sessions run on `core` in a root of `make_root`. Tests may edit `folder`/sys meanwhile."""
    folder.mkdir()
    _write_sys(folder / "sys", core)
    environment = f"QEMU_CPU={core} LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin"
    port, config = configure(
        folder, keys, "ChrootDirectory /srv", "Subsystem sftp internal-sftp", f"SetEnv {environment}"
    )
    script = (
        'mount --rbind "$1" /srv; mount -t proc proc /srv/proc; mount --rbind /dev /srv/dev; '
        'mount --bind "$2" /srv/sys; exec "$3" -D -e -f "$4"'
    )
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-ec", script, "_"]
    process = start(folder, [*command, str(root), str(folder / "sys"), SSHD, str(config)])
    with running(Emulated(folder, port, process, root)) as server:
        yield server


def _write_sys(folder: Path, core: str) -> None:
    """Write the files under /sys of a Raspberry Pi that edgekit and the runtimes read.

    Linux has had core_cpus_list since 5.3; without it OpenVINO writes beyond its allocation and aborts later.
    """
    cpu, clock = "devices/system/cpu", _CLOCK_KHZ[core]
    files = {
        "firmware/devicetree/base/model": f"{MODELS[core]}\0",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone0/temp": "48250\n",
        f"{cpu}/kernel_max": "255\n",
        **{f"{cpu}/{name}": f"0-{CORES - 1}\n" for name in ("possible", "present", "online")},
    }
    for index in range(CORES):
        files |= {
            f"{cpu}/cpu{index}/{name}": f"{content}\n"
            for name, content in {
                "cpufreq/scaling_cur_freq": clock,
                "cpufreq/cpuinfo_max_freq": clock,
                "cpufreq/scaling_governor": "ondemand",
                "regs/identification/midr_el1": _MIDR[core],
                "topology/core_id": index,
                "topology/physical_package_id": 0,
                "topology/thread_siblings_list": index,
                "topology/thread_siblings": f"{1 << index:x}",
                "topology/core_siblings_list": f"0-{CORES - 1}",
                "topology/core_siblings": f"{(1 << CORES) - 1:x}",
                "topology/core_cpus_list": index,
                "topology/core_cpus": f"{1 << index:x}",
                "topology/package_cpus_list": f"0-{CORES - 1}",
                "topology/package_cpus": f"{(1 << CORES) - 1:x}",
            }.items()
        }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
