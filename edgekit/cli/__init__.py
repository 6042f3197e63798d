"""The command line: parse, call, print."""

COMMAND = "edgekit"
COMPLETION = "_EDGEKIT_COMPLETE"
"""Environment variable with which a shell asks for completions; Typer derives it from the name of the command."""
