"""Reports of strangers: whatever is in report.json, it is refused as input, or stays where it is printed."""

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import msgspec
import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from edgekit.errors import UNPRINTABLE, InputError
from edgekit.report import html, load_report
from edgekit.report.compare import compare_runs
from edgekit.report.document import Report, parse, to_json
from edgekit.report.formats import (
    junit_of_comparison,
    junit_of_report,
    render_bom,
    render_card,
    summary,
    summary_of_report,
)
from edgekit.report.html import read_thumbnails, render_csv
from edgekit.report.row import Row
from tests.helpers.page import Page
from tests.helpers.refusals import refuses
from tests.helpers.reports import answered, failed_row, report

Json = Any
Step = str | int
CREATED = "2026-01-01T00:00:00Z"
FAILURE = {"failure", "verdict"}
"""Fields of a row that differ if it has no figures."""


def filled(hint: Any) -> Json:
    """A JSON value of this type in which every optional part is there."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        plain, *limits = arguments
        return CREATED if any(getattr(limit, "pattern", None) for limit in limits) else filled(plain)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return filled(next(each for each in arguments if each is not NoneType))
    if origin is tuple:
        return [filled(arguments[0])] * 2 if arguments[-1] is ... else [filled(each) for each in arguments]
    if origin is dict:
        return {"text": filled(arguments[1])}
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, msgspec.Struct)):
        hints = get_type_hints(hint, include_extras=True)
        document = {name: filled(each) for name, each in hints.items() if name not in ("others", "failure")}
        return msgspec.to_builtins(msgspec.convert(_named(hint, document), hint))
    return {str: "text", bool: True, int: 1, float: 1.0}[hint]


def _named(kind: type[Any], document: dict[str, Json]) -> dict[str, Json]:
    """The fields under their names in JSON."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)} if _is_struct(kind) else {}
    return {names.get(name, name): value for name, value in document.items()}


def _is_struct(kind: type[Any]) -> bool:
    return issubclass(kind, msgspec.Struct)


@cache
def whole() -> str:
    """A report with every part: a float and an INT8 row with all figures, one with a failure, and usual ones."""
    document = filled(Report)
    rows = [{**filled(Row), "precision": precision, "bundle": f"text-{precision}"} for precision in ("float", "int8")]
    usual = msgspec.to_builtins(report())["results"]
    document["results"] = [*rows, msgspec.to_builtins(failed_row()), *usual]
    document["recommendation"]["bundle"] = "text-int8"
    return json.dumps(document)


def places(value: Json, place: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The places of all values in a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in entries:
        yield (*place, step)
        yield from places(inner, (*place, step))


def value_at(document: Json, place: tuple[Step, ...]) -> Json:
    for step in place:
        document = document[step]
    return document


def put(document: Json, place: tuple[Step, ...], value: Json) -> None:
    value_at(document, place[:-1])[place[-1]] = value


@cache
def free_texts() -> list[tuple[Step, ...]]:
    """The places whose text is anything."""
    free = []
    for place in places(json.loads(whole())):
        document = json.loads(whole())
        if isinstance(value_at(document, place), str):
            put(document, place, "other")
            try:
                parse(json.dumps(document), Report, "it")
            except InputError:
                continue
            free.append(place)
    return free


def with_text(text: str) -> str:
    """The report with this text wherever any text may stand."""
    document = json.loads(whole())
    for place in free_texts():
        put(document, place, text)
    return json.dumps(document)


def render(shown: Report) -> dict[str, str]:
    """Every form of a report."""
    compared = [compare_runs(report(), shown), compare_runs(shown, report()), compare_runs(shown, shown)]
    return {
        "json": to_json(shown),
        "csv": render_csv(shown),
        "html": html.render_html(shown, {"text": b"jpeg"}),
        "markdown": summary_of_report(shown),
        "card": render_card(shown),
        "junit": junit_of_report(shown),
        "bom": render_bom(shown, {"text-int8": {"model": "ab"}}),
        "terminal": answered(shown),
        "compared": "".join(map(summary, compared)),
        "compared junit": junit_of_comparison(compared[0]),
    }


NUMBERS = st.sampled_from([0, -1, 1, 2, 1e-320, 1e-9, 0.5, 99, 1e15, 1e30, 1e308, -1e308, 10**25, 10**400])
TEXTS = st.sampled_from(
    ["", "re", "EngineError", "text", "2026-13-99T00:00:00Z", "\x1b[2J\u202e", "\ud800", "a\nb", "$\\frac{$", "\uffff"]
)
VALUES: st.SearchStrategy[Json] = st.one_of(NUMBERS, TEXTS, st.sampled_from([None, True, [], {}, [[]], [1, 2, 3]]))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The report with changes at a few places: other values, entries that are missing or there twice."""
    document = json.loads(whole())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([*places(document)]))
        old, above = value_at(document, place), value_at(document, place[:-1])
        change = draw(st.sampled_from(["alike", "alike", "another", "remove", "twice"]))
        if change == "remove":
            del above[place[-1]]
        elif change == "twice" and isinstance(above, list):
            above.append(old)
        elif change == "alike" and isinstance(old, int | float | str):
            above[place[-1]] = draw(TEXTS if isinstance(old, str) else NUMBERS)
        else:
            above[place[-1]] = draw(VALUES)
    return json.dumps(document)


def shown_or_refused(document: str) -> None:
    try:
        shown = parse(document, Report, "report.json")
    except InputError:
        return
    render(shown)


@settings(max_examples=100)
@given(mutated())
def test_any_report_is_shown_or_refused(document: str) -> None:
    shown_or_refused(document)


PIECES = (
    "`", "``", "```\n", "\n", "\n\n# head\n", "\n---\n", "](http://evil.example)", "![x](y)", "<b>", "<!--", "|", "\\",
    "<img src=x onerror=alert(1)>", "</script><script>", '" onclick="x', "*", "_", "~~", "$x$", "&lt;", "]]>",
    "https://evil.example", "www.evil.example", "=1+1", "+1", "- ", "1. ", "> ", "# ", "@SUM", "\t", "\x1b[2J",
    "{{ 7 }}", "\x9b1m", "\x07", "\r", "\u202e", "\u2028", "\uffff", "\ud800", "\x00",
)  # fmt: skip
INLINE = {"text", "text_special", "code_inline", "strong_open", "strong_close", "softbreak"}


@st.composite
def hostile(draw: st.DrawFn) -> str:
    text = "".join(draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3)))
    return draw(st.sampled_from([f"{text}x", f"x{text}"]))


def blocks(text: str) -> list[str]:
    """The blocks of Markdown; none of its texts may be a link, an image or HTML."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert {child.type for token in tokens for child in token.children or ()} <= INLINE
    return [token.type for token in tokens]


def structure(forms: dict[str, str]) -> dict[str, list[str]]:
    """What each form consists of, whatever its texts are."""
    return {
        "html": [tag for tag, _ in Page(forms["html"]).elements],
        "junit": [element.tag for element in ElementTree.fromstring(forms["junit"]).iter()],
        "compared junit": [element.tag for element in ElementTree.fromstring(forms["compared junit"]).iter()],
        "markdown": blocks(forms["markdown"]),
        "compared": blocks(forms["compared"]),
        "card": blocks(ModelCard(forms["card"]).text),
        "csv": [str(len(cells)) for cells in csv.reader(io.StringIO(forms["csv"]))],
    }


@cache
def usual_structure() -> dict[str, list[str]]:
    return structure(render(parse(with_text("other"), Report, "it")))


@settings(max_examples=40)
@given(hostile())
def test_no_text_leaves_its_place(text: str) -> None:
    shown = parse(with_text(text), Report, "it")
    forms = render(shown)
    found = structure(forms)
    for form, usual in usual_structure().items():
        assert found[form] == usual, form
    for form in ("terminal", "json", "csv", "markdown", "compared", "card", "html"):
        assert not UNPRINTABLE.search(forms[form].replace("\r\n", "\n"))
    attributes = [name for _, each in Page(forms["html"]).elements for name in each]
    assert not [name for name in attributes if name.startswith("on")]
    cells = list(chain(*csv.reader(io.StringIO(forms["csv"]))))
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.])", cell)]
    fence = next(t for t in MarkdownIt("commonmark").parse(ModelCard(forms["card"]).text) if t.type == "fence")
    assert fence.content.rstrip("\n") == shlex.join(("edgekit", *shown.command)).rstrip("\n")
    if "`" not in text:
        prose = re.sub("`[^`]*`|```[^`]*```", "", forms["markdown"] + forms["compared"])
        assert not re.search(r"[^\\]://|www\.", prose), "GitHub makes links of bare addresses"


def changed(place: tuple[Step, ...], value: Json) -> str:
    document = json.loads(whole())
    put(document, place, value)
    return json.dumps(document)


@pytest.mark.parametrize("error", ["FutureError", "re", "EdgekitError"])
def test_an_error_of_a_later_version_is_shown_without_a_cure(error: str) -> None:
    shown = parse(changed(("results", 2, "failure", "error"), error), Report, "it")
    assert "onnxruntime refused node" in answered(shown)
    assert summary_of_report(shown)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("evaluation", "classes", 0, "images"), 0),
        (("evaluation", "classes"), [{"label": "cat", "images": 9}]),
        (("results", 1, "accuracy", "right_by_class"), [1, 2, 3]),
        (("reference", "given_by_class"), [1]),
        (("model", "preprocessing", "crop_pct"), 0),
        (("model", "params"), 10**400),
        (("results", 1, "latency_ms", "p50"), 1e30),
        (("created",), "2026-02-31T00:00:00Z"),
    ],
)
def test_values_that_no_run_has_are_refused(place: tuple[Step, ...], value: Json) -> None:
    with refuses(InputError, "it is not a valid Report"):
        parse(changed(place, value), Report, "it")


@pytest.mark.parametrize("content", ["[" * 100_000, b"\xff\xfe{}", "1" * 5_000, "NaN", "", '{"name": "\\ud800"}'])
def test_text_that_is_no_report_is_refused(content: str | bytes) -> None:
    with refuses(InputError, "it is not a valid Report"):
        parse(content, Report, "it")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    for path in (tmp_path, tmp_path / "report.json", Path("/dev/zero")):
        with refuses(InputError, "has no readable report: not a regular file"):
            load_report(path)
    (tmp_path / ".edgekit").mkdir()
    os.mkfifo(tmp_path / ".edgekit" / "thumbnails.json")
    with refuses(InputError, "not a regular file"):
        read_thumbnails(tmp_path)
