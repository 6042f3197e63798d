"""Errors: their fields, their one-line form, and what is explained of each."""

import pickle

import pytest

from edgekit import errors
from edgekit.errors import (
    EdgekitError,
    StageError,
    UsageError,
    WeightsError,
    all_printable,
    as_sentences,
    did_you_mean,
    rebuild,
)
from edgekit.support.progress import explain

NAMES = [name for name in errors.error_names() if name != "EdgekitError"]


def test_an_error_has_what_was_wrong_what_is_valid_and_the_fix() -> None:
    error = UsageError("--scheme is 'int7'", valid="w8a8 or w8", fix="Leave --scheme out for the recipe's own")
    assert (error.problem, error.valid) == ("--scheme is 'int7'", "w8a8 or w8")
    assert str(error) == "--scheme is 'int7'. Valid: w8a8 or w8. Leave --scheme out for the recipe's own"


ODD = "\x1b]0;title\x07a\x1b[31mred\x1b[0m\r\x08\x9b2J\u202etxt\n\tb ü \udcff"
"""What takes over a terminal: a title, colours, what overwrites the line, C1 controls and reversed text."""
PLAIN = "�]0;title�ared���2J�txt\n\tb ü �"


def test_an_error_controls_no_terminal() -> None:
    error = StageError(ODD, valid=ODD, fix=ODD)
    assert (error.problem, error.valid, error.fix) == (PLAIN, PLAIN, PLAIN)
    assert str(error) == str(StageError(PLAIN, valid=PLAIN, fix=PLAIN))
    assert all_printable({ODD: [ODD, 1, None, {"a": ODD}]}) == {PLAIN: [PLAIN, 1, None, {"a": PLAIN}]}


def test_a_problem_alone_stays_as_it_is() -> None:
    assert str(StageError("the graph has a cycle")) == "the graph has a cycle"
    assert as_sentences("", "One part", "") == "One part"


def test_a_question_needs_no_period() -> None:
    assert as_sentences("Did you mean 'x'?", "Use --target NAME") == "Did you mean 'x'? Use --target NAME"


def test_a_similar_choice_is_suggested() -> None:
    assert "'tflite'" in did_you_mean("tflit", ["onnx", "tflite"])
    assert did_you_mean("xyz", ["onnx", "tflite"]) == ""


def test_a_fix_can_be_added() -> None:
    error = WeightsError("x", valid="y", fix="Do a.").with_fix("Or do b")
    assert type(error) is WeightsError
    assert (error.problem, error.valid, error.fix) == ("x", "y", "Do a. Or do b")


def test_an_error_crosses_to_another_process() -> None:
    error = WeightsError("x", valid="y", fix="z")
    copies: list[EdgekitError] = [rebuild("WeightsError", "x", "y", "z"), pickle.loads(pickle.dumps(error))]
    for copy in copies:
        assert type(copy) is WeightsError
        assert (copy.problem, copy.valid, copy.fix) == ("x", "y", "z")


@pytest.mark.parametrize("name", NAMES)
def test_every_error_is_explained(name: str) -> None:
    explanation = explain(name)
    assert all((explanation.summary, explanation.cause))
    assert explanation.cure or not issubclass(getattr(errors, name), StageError), "reports print it as the next step"
    assert explanation.exit_code in (1, 2)


def test_the_tree_at_the_top_names_every_error() -> None:
    tree = errors.__doc__ or ""
    assert [name for name in errors.error_names() if name not in tree] == []
