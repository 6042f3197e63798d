"""Cuts real reports down to the example in the reference: `python -m docs.generate.report_example REPORT.json ...`.

What the first report leaves empty comes from the next one that has it, so that nearly every field has an example.
"""

import json
import sys
from pathlib import Path
from typing import Any

from docs.generate.report import EXAMPLE

LONGEST = 3
"""Objects of a list that are kept."""


def cut(value: Any) -> Any:
    """The same document with only the first objects of each list."""
    if isinstance(value, list):
        kept = value[:LONGEST] if value and isinstance(value[0], dict) else value
        return [cut(each) for each in kept]
    return {key: cut(each) for key, each in value.items()} if isinstance(value, dict) else value


def filled(value: Any, other: Any) -> Any:
    """The document with what is empty in it, also in the first object of a list, from another document."""
    if value in (None, []):
        return other
    if isinstance(value, dict) and isinstance(other, dict):
        return {key: filled(each, other.get(key)) for key, each in value.items()}
    if isinstance(value, list) and isinstance(value[0], dict) and other:
        return [filled(value[0], other[0]), *value[1:]]
    return value


def main() -> None:
    first, *others = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    document = cut(first)
    for other in others:
        document = filled(document, cut(other))
    rows = [*first["results"], *(row for other in others for row in other["results"])]
    failed = next((row for row in rows if row["failure"]), None)
    if failed and failed not in document["results"]:
        document["results"].append(failed)
    EXAMPLE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
