"""Programs that are sent to a device as text. Each is one file that needs only Python's standard library."""

from importlib.resources import files

PROBE = "edgekit.support.probe"
STORE = "edgekit.devices.scripts.store"
ENVIRONMENT = "edgekit.devices.scripts.environment"
APPS = "edgekit.devices.scripts.apps"


def source(module: str) -> str:
    """Source text of a module that runs alone, such as `PROBE`."""
    package, _, name = module.rpartition(".")
    return (files(package) / f"{name}.py").read_text("utf-8")
