"""Describes errors that edgekit doesn't raise on purpose."""

from edgekit.support.libraries import first_line


def bug_of(error: Exception) -> str:
    """One line for an unexpected exception, which says that edgekit is at fault."""
    return f"a bug in edgekit, not in your input ({type(error).__name__}: {first_line(error)})"
