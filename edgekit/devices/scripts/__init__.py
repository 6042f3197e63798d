"""Programs that are sent to a device as text: each is one file that needs Python's own library and nothing else."""

from importlib.resources import files


def source(name: str) -> str:
    """The text of a script."""
    return (files(__name__) / f"{name}.py").read_text("utf-8")
