"""A field that is declared in `Job` is in everything that derives from it, without another line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.tiny import ROOT

DECLARATION = """    planted: int = gate_option(kinds.Number(1, 9), "A planted field.", value=1, default="one")
    stated: Stated ="""
PROBE = """
import contextlib, io, json, sys
from pathlib import Path

import edgekit
from docs.generate import action, commands
from edgekit.cli.main import main
from edgekit.job import Job
from edgekit.job.saved import job_of, kept

Path("job.toml").write_text('model = "net:make"\\nplanted = 3\\n')
shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    main(["deploy", "--help"])
job = Job.of("net:make", {"planted": 2})
print(json.dumps({
    "help": "--planted" in shown.getvalue(),
    "value": job.planted,
    "default": Job.of("net:make", {}).planted,
    "how to reproduce": job.command,
    "job.json": kept(job)["stated"],
    "TOML": job_of("job.toml", {}).planted,
    "Python": "planted: A planted field." in edgekit.deploy.__doc__,
    "reference": "`--planted`" in commands.command("deploy"),
    "Action": "planted:" in action.inputs(),
    "refused": main(["deploy", "net:make", "--planted", "10"]),
}))
"""


def test_a_declared_field_is_everywhere(tmp_path: Path) -> None:
    for folder in ("edgekit", "calibration", "targets", "docs"):
        ignored = shutil.ignore_patterns("*.pyc", "demo", "page", "*.md", "*.png")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    file = tmp_path / "edgekit" / "job" / "__init__.py"
    source = file.read_text()
    assert source.count("    stated: Stated =") == 1
    file.write_text(source.replace("    stated: Stated =", DECLARATION))
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "help": True,
        "value": 2,
        "default": 1,
        "how to reproduce": ["deploy", "net:make", "--planted", "2"],
        "job.json": {"planted": 2},
        "TOML": 3,
        "Python": True,
        "reference": True,
        "Action": True,
        "refused": 2,
    }
    assert "--planted is '10'" in done.stderr
