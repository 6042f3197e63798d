"""edgekit can be imported without the modules and functions that only POSIX has."""

import subprocess
import sys

import pytest

WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, socket, sys

import edgekit
modules = pkgutil.walk_packages(edgekit.__path__, "edgekit.")
names = [module.name for module in modules if "__main__" not in module.name]

def import_all():
    for name in ["edgekit.runtime", "edgekit.cli.main", *names]:
        importlib.import_module(name)

# Import other packages with everything that this system has, and only edgekit a second time, without POSIX.
import_all()
for name in [name for name in sys.modules if name.partition(".")[0] == "edgekit"]:
    del sys.modules[name]

for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in (
    "confstr", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid",
    "getpgrp", "getuid", "killpg", "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread",
    "pwrite", "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname", "wait4",
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG",
):
    delattr(os, name)
for name in (
    "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2",
    "alarm", "pthread_kill", "pthread_sigmask", "setitimer",
):
    delattr(signal, name)
del socket.AF_UNIX
import_all()
from edgekit.support.probe import state
assert state()["load"] is None
"""


@pytest.mark.slow
def test_every_module_imports_without_posix() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_prints_its_help_without_posix() -> None:
    code = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None; from edgekit.cli.main import main; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit(main(['--help']))"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deploy" in done.stdout
