"""The examples for apps, as code blocks."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"
LANGUAGES = {".service": "ini"}


def example(name: str) -> str:
    """A file of docs/examples as a code block, with its path above."""
    path = FOLDER / name
    return f"`docs/examples/{name}`:\n\n```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
