"""`edgekit explain`: the cause and the cure of an error, by its name."""

import pytest

from edgekit.cli.main import main
from edgekit.errors import error_names
from edgekit.support.error_text import explain


@pytest.mark.parametrize("name", ["BundleError", "bundleerror", "BUNDLEERROR"])
def test_explains_an_error_in_any_case(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    out, err = capfd.readouterr()
    text = " ".join(out.split())
    explanation = explain("BundleError")
    for part in ("BundleError", explanation.summary, explanation.cause, explanation.cure, "exit code 2"):
        assert part in text
    assert err == ""


def test_lists_every_error_with_its_summary(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    for name in error_names():
        assert (f"{name}: {explain(name).summary}" in out) == (name != "EdgekitError")


def test_a_wrong_name_is_answered_with_the_valid_ones(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "Bundle"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "'Bundle'" in err
    assert [name for name in error_names() if name != "EdgekitError" and name not in err] == []


def test_the_last_line_of_an_error_names_a_command_that_explains_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "gone"]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    words = last.partition("more:")[2].split()
    assert words[0] == "edgekit"
    assert main(words[1:]) == 0
    assert words[-1] in capfd.readouterr().out
