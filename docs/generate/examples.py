"""The examples for apps, as code blocks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"
LANGUAGES = {".py": "python", ".cpp": "cpp", "": "dockerfile"}


def blocks() -> dict[str, Callable[[], str]]:
    """The parts "example NAME", one for each file."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in LANGUAGES and path.is_file())
    return {f"example {path.name}": partial(_block, path) for path in files}


def _block(path: Path) -> str:
    return f'```{LANGUAGES[path.suffix]} title="docs/examples/{path.name}"\n{path.read_text().rstrip()}\n```'
