"""Every figure belongs to a commit and a machine, and one that is out of date is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import machine, record, recording
from benchmarks.machine import Conditions, when_idle
from benchmarks.recording import ROOMS, Recording, keep_recording, recording_of, recordings, renew_recording, statements
from benchmarks.rows import keep_rows, read_rows
from docs.generate import figures, peers

RECORDING = Recording(
    commit="0123456789",
    date="2026-12-01",
    code=dict.fromkeys(ROOMS, "hash"),
    cpu="a processor",
    features=["avx2"],
    clock_mhz=2300,
    cores=2,
    system="Linux",
    python="3.11.7",
    versions={"openvino": "2026.4.1"},
)


def test_only_statements_count() -> None:
    text = '"""Zürich."""\n\n\ndef f(x):  # größer\n    """Text\n    of two lines."""\n    return "# x"\n'
    first = statements(text, ".py")
    assert first == statements('def f(\n    x\n): return "# x"  # another\n', ".py") == 'deff(x):return"#x"'
    assert statements('def f(x): return "# y"', ".py") != first


def test_comments_of_recipes_do_not_count() -> None:
    first = statements("a = 1 # one\nb = 2\n", ".toml")
    assert statements("b = 2\na = 1\n", ".toml") == first
    assert statements("b = 2\na = 2\n", ".toml") != first


def test_a_file_and_a_row_name_their_recording(tmp_path: Path) -> None:
    keep_recording(tmp_path, RECORDING, "peers.json")
    assert recording_of(tmp_path / "peers.json") == RECORDING
    assert recording_of(tmp_path / "other.json") is None
    other = replace(RECORDING, cpu="another")
    keep_rows(tmp_path / "rows.json", [{"model": "a", "ms": 1}], ("model",), other)
    (row,) = read_rows(tmp_path / "rows.json")
    assert recordings(tmp_path)[row["recording"]] == other
    assert len(recordings(tmp_path)) == 2


def test_pages_say_that_bundles_may_have_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "BENCHMARKS", tmp_path)
    keep_recording(tmp_path, RECORDING, "peers.json")
    keep_rows(tmp_path / "rows.json", [{"model": "a"}], ("model",), RECORDING)
    keep_rows(tmp_path / "rows.json", [{"model": "b"}], ("model",), replace(RECORDING, cpu="another"))

    def sentences() -> list[str]:
        return [figures.recorded("peers.json"), figures.recorded_rows(read_rows(tmp_path / "rows.json"))]

    monkeypatch.setattr(recording, "code_sha256", lambda room: "hash")
    assert not any("changed since" in sentence for sentence in sentences())
    monkeypatch.setattr(recording, "code_sha256", lambda room: "new" if room == "edgekit/compiler" else "hash")
    assert all("changed since" in sentence for sentence in sentences())


def test_only_the_file_whose_bundles_were_built_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_recording(tmp_path, RECORDING, "peers.json", "demo.json")
    monkeypatch.setattr(recording, "code_sha256", lambda room: "new")
    for commit in ("aaaaaaaaaa", "bbbbbbbbbb"):
        monkeypatch.setattr(recording, "git", lambda *words, commit=commit: commit)
        renew_recording(tmp_path / "peers.json")
    renewed = recording_of(tmp_path / "peers.json")
    assert renewed == replace(RECORDING, code=dict.fromkeys(ROOMS, "new"), renewed="bbbbbbbbbb")
    assert recording_of(tmp_path / "demo.json") == RECORDING


def test_a_module_that_runs_bundles_counts_only_if_its_statements_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    git, session = recording.git, "edgekit/runtime/session.py"

    def of_commit(*words: str) -> str:
        text = git(*words)
        return (
            text.replace("class Session", '"""Another text."""\nclass Sessions')
            if words[-1].endswith(session)
            else text
        )

    assert recording.changed_modules("HEAD") == []
    monkeypatch.setattr(recording, "git", of_commit)
    assert recording.changed_modules("HEAD") == [session]


def test_a_disturbed_measurement_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [Conditions(busy, 0.0, (1.0, 1.0)) for busy in (0.9, 0.0)]
    monkeypatch.setattr(machine, "wait_until_idle", lambda what: None)
    monkeypatch.setattr(machine._Watch, "conditions", lambda watch: states.pop(0))
    runs: list[int] = []
    _, conditions = when_idle(lambda: runs.append(1), "a")
    assert len(runs) == 2
    assert conditions.steady


def test_a_machine_that_stays_busy_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "wait_until_idle", lambda what: None)
    monkeypatch.setattr(machine._Watch, "conditions", lambda watch: Conditions(0.0, 0.3, (1.0, 1.0)))
    with pytest.raises(SystemExit, match="disturbed 5 times"):
        when_idle(lambda: None, "a")


@pytest.mark.parametrize(
    ("state", "rests"),
    [((0.05, 0.0, (1.0, 1.05)), True), ((0.5, 0.0, (1.0, 1.0)), False), ((0.0, 0.0, (1.0, 1.5)), False)],
)
def test_an_idle_machine_has_no_other_load_and_keeps_its_clock(
    state: tuple[float, float, tuple[float, float]], rests: bool
) -> None:
    assert Conditions(*state).steady == rests


def test_the_recordings_of_the_project_can_be_read() -> None:
    known = recordings(record.HERE)
    assert all(recording_of(record.HERE / name) in known.values() for name in peers.files())
    assert json.loads((record.HERE / recording.RECORDINGS).read_text())["files"]


def test_the_kind_of_a_processor_is_its_maker_and_what_decides_how_much_int8_gains() -> None:
    assert RECORDING.kind == "a, no VNNI"
    intel = replace(RECORDING, cpu="Intel(R) Xeon(R) Processor", features=["avx2", "avx512f", "avx512_vnni"])
    assert intel.kind == "Intel, AVX-512 VNNI"
    assert replace(intel, features=[*recording.KERNELS[:6]]).kind == "Intel, AMX, AVX-512 VNNI, bf16"
