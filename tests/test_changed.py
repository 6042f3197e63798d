"""The tests that a change can break, as `make test-changed` finds them."""

import pytest

from benchmarks.house import levels
from tests.helpers.changed import affected, changed_since
from tests.helpers.tiny import ROOT


@pytest.mark.parametrize(
    ("changed", "run", "spared"),
    [
        (
            "edgekit/cli/main.py",
            {"cli/test_main.py", "test_api.py"},
            {"pipeline/test_deploy.py", "report/test_html.py"},
        ),
        ("edgekit/report/new_form.py", {"report/test_html.py", "pipeline/test_deploy.py"}, {"compiler/test_graph.py"}),
        ("edgekit/devices/web/page/page.js", {"devices/web/test_server.py"}, {"models/test_soup.py"}),
        ("edgekit/support/gone.py", {"support/test_files.py", "compiler/test_graph.py", "cli/test_main.py"}, set()),
        ("calibration/vit.toml", {"config/test_recipes.py", "cli/test_steps.py"}, {"support/test_files.py"}),
        ("tests/helpers/fragile.py", {"tuning/test_repair.py"}, {"tuning/test_placement.py"}),
        ("tests/tuning/test_repair.py", {"tuning/test_repair.py"}, {"tuning/test_placement.py"}),
        ("tests/tuning/test_gone.py", set(), {"tuning/test_repair.py"}),
        ("docs/how-to/phone.md", {"docs/test_reference.py"}, {"cli/test_main.py"}),
    ],
)
def test_a_change_runs_its_room_and_what_names_it_above(changed: str, run: set[str], spared: set[str]) -> None:
    found = affected([changed])
    assert found is not None
    assert {f"tests/{file}" for file in run} <= found
    assert not {f"tests/{file}" for file in spared} & found


def test_a_page_is_a_test() -> None:
    assert "docs/how-to/phone.md" in (affected(["docs/how-to/phone.md"]) or ())


@pytest.mark.parametrize("file", ["Makefile", "constraints.txt", "tests/conftest.py", "edgekit/__init__.py"])
def test_a_change_that_cannot_be_placed_runs_everything(file: str) -> None:
    assert affected(["docs/how-to/phone.md", file]) is None


def test_every_room_has_a_level() -> None:
    rooms = {path.stem for path in (ROOT / "edgekit").iterdir() if path.stem[0] not in "_."} - {"py"}
    assert levels().keys() == rooms


def test_new_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"diff": ["edited.py"], "ls-files": ["new.py"]}
    monkeypatch.setattr("tests.helpers.changed.git", lambda command, *_: lines[command])
    assert changed_since("HEAD") == {"edited.py", "new.py"}
