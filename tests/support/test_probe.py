"""The cores and the memory that a process may use, in containers and control groups of both versions."""

import os
from pathlib import Path

import pytest

from edgekit.support import probe
from edgekit.support.probe import available_cores
from tests.devices.test_probe_result import root

GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\n"}
MOUNTS = "sys/fs/cgroup/"
V1 = "4:memory:/pods/app\n2:cpu,cpuacct:/pods/app\n1:name=systemd:/other\n0::/\n"


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(probe, "pythons", list)  # which starts each


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 1),  # a second thread would be stopped half of the time
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "3200000 100000"}, 8),
        ("0::/pods/app", {"pods/cpu.max": "300000 100000", "pods/app/cpu.max": "max 100000"}, 3),
        ("0::/pods/app", {"pods/cpu.max": "300000 100000", "pods/app/cpu.max": "200000 100000"}, 2),
        ("0::/docker/1234", {"cpu.max": "400000 100000"}, 4),  # the path on the host, in a container
        ("0::/../other", {"cpu.max": "400000 100000"}, 4),
        ("0::/a\n1:cpu:/b", {"unified/a/cpu.max": "max 1", "cpu/b/cpu.cfs_quota_us": "50000",
                             "cpu/b/cpu.cfs_period_us": "10000"}, 5),
        (V1, {"cpu,cpuacct/pods/app/cpu.cfs_quota_us": "-1", "cpu,cpuacct/pods/app/cpu.cfs_period_us": "100000",
              "cpu,cpuacct/pods/cpu.cfs_quota_us": "200000", "cpu,cpuacct/pods/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ("0::/", {"cpu.max": "broken"}, 8),
    ],
)  # fmt: skip
def test_cores_of_a_control_group(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    root(tmp_path, {"proc/self/cgroup": groups, **{MOUNTS + name: f"{text}\n" for name, text in files.items()}})
    assert available_cores(tmp_path) == cores
    assert probe.probe(tmp_path)["cores"] == cores
    assert probe.physical_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("groups", "files", "total", "available"),
    [
        ("", {}, 16, 12),
        ("0::/", {"memory.max": 2 * GIB, "memory.current": GIB}, 2, 1),
        ("0::/", {"memory.max": "max", "memory.current": GIB}, 16, 12),
        ("0::/", {"memory.max": 2 * GIB, "memory.current": 2 * GIB,
                  "memory.stat": f"file 1\ninactive_file {GIB}"}, 2, 1),
        ("0::/", {"memory.max": 2 * GIB, "memory.current": 3 * GIB}, 2, 0),
        ("0::/", {"memory.max": 64 * GIB, "memory.current": GIB}, 16, 12),
        ("0::/pods/app", {"pods/memory.max": 8 * GIB, "pods/memory.current": 6 * GIB, "pods/app/memory.max": 4 * GIB,
                          "pods/app/memory.current": GIB}, 4, 2),
        (V1, {"memory/pods/app/memory.limit_in_bytes": 2 * GIB, "memory/pods/app/memory.usage_in_bytes": GIB,
              "memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": 5 * GIB}, 2, 1),
        (V1, {"memory/pods/memory.limit_in_bytes": 4 * GIB, "memory/pods/memory.usage_in_bytes": 3 * GIB,
              "memory/pods/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GIB}"}, 4, 3),
    ],
)  # fmt: skip
def test_memory_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, object], total: int, available: int
) -> None:
    root(
        tmp_path,
        {"proc/self/cgroup": groups, **MACHINE, **{MOUNTS + name: f"{text}\n" for name, text in files.items()}},
    )
    expected = {"memory_bytes": total * GIB, "memory_available_bytes": available * GIB}
    assert probe.memory(tmp_path) == expected
    assert probe.within_limits(tmp_path, 16 * GIB, 12 * GIB) == tuple(expected.values())


def test_the_memory_of_an_unknown_machine_is_that_of_its_group(tmp_path: Path) -> None:
    root(tmp_path, {"proc/self/cgroup": "0::/", MOUNTS + "memory.max": "1000", MOUNTS + "memory.current": "400"})
    assert probe.within_limits(tmp_path, None, None) == (1000, 600)
