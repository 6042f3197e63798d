"""Where a worker process begins. Light: what it needs is imported with libraries kept quiet."""

from edgekit.libraries import import_needed
from edgekit.options import Options, Search


def begin(options: Options, search: Search, url: str, until: float) -> None:
    """Do trials until none is left, or it is `until` (time.time())."""
    import_needed("edgekit.tuning.worker", "build").work(options, search, url, until)
