"""Runs Python on an emulated x86 processor: QEMU translates the program, so it sees another instruction set."""

import os
import platform
import shutil
import subprocess
import sys
from typing import Literal

from edgekit.runtime.session import X86
from tests.helpers.missing import missing

Processor = Literal["Haswell", "Nehalem"]
"""With AVX2 and without VNNI, or with SSE4.2 and without AVX."""


def run_python(processor: Processor, *arguments: str) -> str:
    """Run this environment's Python with the arguments on an emulated processor. Returns what it prints.

    Skips the test without QEMU's user-mode emulation, or on another architecture than x86. In CI it fails.
    """
    emulator = shutil.which("qemu-x86_64-static")
    if emulator is None or platform.machine() not in X86:
        missing("qemu-x86_64-static on x86 is needed: apt-get install qemu-user-static")
    command = [emulator, "-cpu", processor, sys.executable, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout
