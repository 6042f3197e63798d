"""Programs that are sent to a device as text: each is one file that needs Python's own library and nothing else."""

from importlib.resources import files

PROBE = "edgekit.measure.probe"
STORE = "edgekit.devices.scripts.store"
ENVIRONMENT = "edgekit.devices.scripts.environment"


def source(module: str) -> str:
    """The text of a module that runs alone, such as `PROBE`."""
    package, _, name = module.rpartition(".")
    return (files(package) / f"{name}.py").read_text("utf-8")
