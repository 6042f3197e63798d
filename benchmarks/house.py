"""Counts what makes edgekit/ large to read, and fails if a figure exceeds its budget: `python -m benchmarks.house`.

`make lint` runs it. A change may raise a budget only in a commit that says what this buys.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = {
    "tokens": 291_697,
    "tokens a line": 9.8,
    "files": 155,
    "lines of the longest file": 450,
    "names across walls": 517,
    "pairs of rooms in % of those that the layers allow": 75,
    "class names that exist twice": 0,
}
"""The largest value of each figure. Tokens and lines are those of code, without comments, docstrings and layout. A wall
is between two rooms: a name counts once, however many rooms import it."""
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
CONTRACTS = {"Backend", "Engine"}
"""Classes that each runtime has under the same name, because the table of runtimes finds them by it."""


def count(root: Path) -> dict[str, float]:
    """The figures of `BUDGETS` for the package in a folder, which has a pyproject.toml beside it."""
    sources = {path: path.read_text("utf-8") for path in (root / "edgekit").rglob("*.py")}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    modules = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in sources}
    names = {path: module.removesuffix(".__init__") for path, module in modules.items()}
    sizes = [_size(source, trees[path]) for path, source in sources.items()]
    tokens, lines = (sum(each) for each in zip(*sizes, strict=True))
    crossing = {
        (_room(names[path]), module, name)
        for path, tree in trees.items()
        for module, name in _imports(tree, set(names.values()))
        if "" not in (_room(names[path]), _room(module)) and _room(module) != _room(names[path])
    }
    pairs = {(room, _room(module)) for room, module, _ in crossing}
    allowed = sum(one != other for one, other in combinations(levels(root).values(), 2))
    classes = Counter(node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        "tokens": tokens,
        "tokens a line": round(tokens / lines, 2),
        "files": len(sources),
        "lines of the longest file": max(lines for _, lines in sizes),
        "names across walls": len({(module, name) for _, module, name in crossing}),
        "pairs of rooms in % of those that the layers allow": round(100 * len(pairs) / allowed),
        "class names that exist twice": sum(n > 1 for name, n in classes.items() if name not in CONTRACTS),
    }


def levels(root: Path = ROOT) -> dict[str, int]:
    """The layer of each room, 0 at the top, as the contract in pyproject.toml states it."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {room: level for level, line in enumerate(layers) for room in re.findall(r"\w+", line)}


def over_budget(figures: Mapping[str, float]) -> list[str]:
    """The figures that exceed their budget."""
    return [name for name, budget in BUDGETS.items() if figures[name] > budget]


def _size(source: str, tree: ast.Module) -> tuple[int, int]:
    """Tokens and lines of a file's code."""
    prose = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT and token.start[0] not in prose
    ]
    return len(tokens), len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)})


def _room(module: str) -> str:
    """The room of a module: "report" for `edgekit.report.row`, and "" for the package itself."""
    return [*module.split("."), ""][1]


def _imports(tree: ast.Module, modules: set[str]) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a file imports from edgekit. A module as a whole has the name ""."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "edgekit":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in modules else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "edgekit")


if __name__ == "__main__":
    figures = count(ROOT)
    for name, budget in BUDGETS.items():
        print(f"{name}: {figures[name]:,} (budget {budget:,})")
    if over := over_budget(figures):
        sys.exit(f"over budget: {', '.join(over)}. Take something out, or raise the budget and say what that buys.")
