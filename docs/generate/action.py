"""The inputs of the GitHub Action that state fields of a job."""

import json

from edgekit.job import declarations

INDENT = "  "


def inputs() -> str:
    """An input for each field that `edgekit deploy --help` lists; the others go into `args`."""
    lines = []
    for name, option in declarations().items():
        if option.advanced or name == "output":
            continue
        default = f" By default {option.default}." if option.default else ""
        text = json.dumps(f"{option.help}{default}")
        lines += [f"{name.replace('_', '-')}:", f"{INDENT}description: {text}", f'{INDENT}default: ""']
    return "".join(f"{INDENT}{line}\n" for line in lines)
