"""Warnings that every output has at its top: random weights, and a reference near chance."""

from collections.abc import Callable

import pytest
from junitparser import JUnitXml
from markdown_it import MarkdownIt

from edgekit.report.card import render_card
from edgekit.report.document import Reference, Report
from edgekit.report.html import render_html
from edgekit.report.junit import junit_of_report
from edgekit.report.markdown import summary_of_report
from edgekit.report.sentences import RANDOM, near_chance, warnings
from tests.helpers.page import Page
from tests.helpers.reports import RANDOM_MODEL, printed, report

GUESSING = Reference("torch", 0.24, 0.9, top1_ci95=(0.1669, 0.3323), chance=0.25, near_chance=True)
WORDS = (
    "The reference is near chance: torch reaches top-1 24.0 % (95 % interval 16.7 to 33.2 %) on 10,000 images, and "
    "chance is 25.0 %. No accuracy means anything until this is settled. Likely causes: the classes have another order "
    "(list them with `--labels`), the images are normalized otherwise than in training (`--mean`, `--std`), or the "
    "head is not that of these classes."
)
OUTPUTS: dict[str, Callable[[Report], str]] = {
    "terminal": lambda whole: printed(whole, 2000),
    "page": lambda whole: Page(render_html(whole)).words,
    "summary": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(summary_of_report(whole))).words,
    "card": lambda whole: Page(MarkdownIt("commonmark").enable("table").render(render_card(whole))).words,
}


def test_the_warning_names_figures_and_likely_causes() -> None:
    assert near_chance(GUESSING, 10_000) == warnings(report(reference=GUESSING)) == [WORDS]
    assert warnings(report()) == []
    assert warnings(report(reference=GUESSING, model=RANDOM_MODEL)) == [RANDOM]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    ("whole", "warning"), [(report(reference=GUESSING), WORDS), (report(model=RANDOM_MODEL), RANDOM)]
)
def test_outputs_begin_with_the_warning(output: str, whole: Report, warning: str) -> None:
    text = OUTPUTS[output](whole)
    assert text.count(warning) == 1
    assert text.index(warning) < text.index("Ship openvino-int8")
    assert warning not in OUTPUTS[output](report())


def test_junit_begins_with_the_warning_as_a_failure() -> None:
    (suite,) = JUnitXml.fromstring(junit_of_report(report(reference=GUESSING)).encode())
    first = next(iter(suite))
    assert (first.classname, first.name) == ("reference", "above-chance")
    (result,) = first.result
    assert (result.message, result.type) == (WORDS, "inconclusive")
    for whole in (report(), report(reference=GUESSING, model=RANDOM_MODEL)):
        assert "above-chance" not in junit_of_report(whole)
