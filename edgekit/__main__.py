"""`python -m edgekit` is the `edgekit` command."""

import sys
from pathlib import Path

# -m puts the current folder first, from which a json.py would replace the standard library's, in child processes too.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from edgekit.cli.main import entry

entry()
