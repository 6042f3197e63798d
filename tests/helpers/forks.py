"""A folder with a command `edgekit` that is a fork of a process in which torch and the converters are imported already.

A small job spends most of its time on these imports, and the pages of the documentation run dozens of small jobs.
`edgekit deploy` doesn't ask there that INT8 be faster: tests run on busy machines, and on processors where it isn't.
A `python` in the folder `CHILDREN` there runs code or a module, as in `python -P -c CODE`: what
`edgekit.support.child_process` starts. So do the commands themselves.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

from edgekit.cli.main import entry
from tests.helpers.tiny import ROOT

IMPORTED = (
    "edgekit.cli.jobs",
    "edgekit.pipeline.deploy",
    "edgekit.report.html",
    "edgekit.runtime.onnx.backend",
    "edgekit.runtime.onnx.engine",
    "edgekit.runtime.openvino.backend",
    "edgekit.runtime.openvino.engine",
    "edgekit.runtime.tflite.backend",
    "edgekit.runtime.tflite.engine",
    "networkx",
    "onnxruntime",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.special",
    "timm",
)
"""What a command would import; LiteRT's converter imports networkx and the parts of SciPy when it converts."""
CHILDREN = "children"
"""Folder of `python`, which pages must not find in PATH."""
COMMAND = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    message = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(message).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(message)
    sys.exit(int(server.recv(4)))
"""
"""Hands its arguments, folder, environment and standard streams to the process, and ends with the fork's exit code."""


@contextmanager
def forked_edgekit() -> Iterator[Path]:
    """Start the process, and yield the folder of the commands. Those that run when the context ends run on."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        address = folder / "socket"
        for command in (folder / "edgekit", folder / CHILDREN / "python"):
            command.parent.mkdir(exist_ok=True)
            command.write_text(COMMAND.format(python=sys.executable, address=address))
            command.chmod(0o755)
        with subprocess.Popen(
            [sys.executable, "-m", __name__, str(address)],
            cwd=ROOT,
            env=os.environ | {"HOME": name, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,  # it ends when this process closes the pipe, or dies
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield folder
            process.communicate()


def serve(address: str) -> None:
    """Fork for each connection, until the standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    _export_to_onnx()
    gc.collect()
    gc.freeze()  # the forks would search these objects for cycles again and again
    gc.set_threshold(100_000, 50, 100)  # as tests/conftest.py does
    sys.executable = str(Path(address).with_name(CHILDREN) / "python")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _answer(connection)
    with suppress(ChildProcessError):
        while True:
            os.wait()  # which counts their CPU time as that of the tests
    os._exit(0)  # the libraries' own clean-up takes seconds


def keep_onnx_translations() -> None:
    """Let torch keep its table of translations to ONNX, if an export has imported it.

    In torch 2.13, which would make the table anew in each export, it is that of a private class. A small export spends
    most of its time on it.
    """
    imported = sys.modules.get("torch.onnx._internal.exporter._registration")
    if imported and not hasattr(imported.ONNXRegistry.from_torchlib, "cache_info"):
        imported.ONNXRegistry.from_torchlib = staticmethod(cache(imported.ONNXRegistry.from_torchlib))


def _export_to_onnx() -> None:
    """Export something, so that the table is there."""
    import torch
    import torch.onnx._internal.exporter._registration

    keep_onnx_translations()
    torch.onnx.export(torch.nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),), dynamo=True, verbose=False)


def _answer(connection: socket.socket) -> None:
    """Run a command in a child, and tell the client its exit code."""
    size, fds, *_ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        (command, *arguments), folder, variables = json.loads(stream.read(int.from_bytes(size, "big")))
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
        os._exit(0)
    connection.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    try:
        if Path(command).name == "python":
            _run_python(arguments)
        else:
            sys.argv = ["edgekit", *arguments, *(["--min-speedup", "0"] if arguments[:1] == ["deploy"] else [])]
            entry()
    except SystemExit as end:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(int(end.code or 0))  # the converters' own clean-up would wait for a thread that the parent has


def _run_python(arguments: list[str]) -> NoReturn:
    safe, option, what, *sys.argv[1:] = arguments
    assert (safe, option) in (("-P", "-c"), ("-P", "-m")), arguments
    if option == "-c":
        exec(what, {"__name__": "__main__"})
    else:
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # it has been imported
        runpy.run_module(what, run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
