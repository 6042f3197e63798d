"""Run folders are locked by one process, refused if they contain other files, and cleaned of leftovers."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.errors import OutputError
from edgekit.support import child_process
from edgekit.support.files import Inputs, write_json, writing
from edgekit.support.run_folder import LOCK, STATE, check_output, open_run
from tests.helpers.refusals import refuses


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_new_empty_and_earlier_folders_are_accepted(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run(tmp_path / "new" / "run") as run:
            run.remember("row", ONE, 1)
    with open_run(tmp_path / "empty"):
        pass
    assert names(tmp_path / "new" / "run") == [STATE]


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert names(tmp_path) == []


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with refuses(OutputError, tmp_path / "file") as caught:
        check_output(tmp_path / "file")
    assert "--output" in caught.value.fix
    with refuses(OutputError, tmp_path / "file"):
        check_output(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_with_other_files_is_refused_and_they_are_named(tmp_path: Path) -> None:
    for name in ("thesis.tex", "photos", "notes.txt", "zoo"):
        (tmp_path / name).touch()
    with refuses(OutputError, "notes.txt, photos, thesis.tex"):
        check_output(tmp_path)


def test_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the mode bits don't stop root
    with refuses(OutputError, tmp_path / "run"):
        check_output(tmp_path / "run")


def test_a_path_that_the_system_refuses(tmp_path: Path) -> None:
    with refuses(OutputError, os.strerror(errno.ENAMETOOLONG)):
        check_output(tmp_path / ("x" * 300))


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with refuses(OutputError, os.strerror(errno.ENOSPC)), open_run(tmp_path / "run"):
        pass


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        with pytest.raises(OutputError), open_run(tmp_path / "run"):
            pass
        with open_run(tmp_path / "other"):
            pass
    with open_run(tmp_path / "run"):
        pass


def leave_behind(run: Path) -> None:
    """What processes leave in the folder of a run when they are killed."""
    for left in (".onnx-int8.tmp-12", ".onnx-float.old-12", ".onnx-int8.compile-ab_1", f"{STATE}/build-images-12"):
        (run / left).mkdir()
        (run / left / "model.onnx").touch()
    (run / ".report.json.tmp-12").touch()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    with open_run(tmp_path):
        pass
    leave_behind(tmp_path)
    for other in ("onnx-float", ".hidden"):
        (tmp_path / other).mkdir()
    (tmp_path / "report.json").touch()
    with open_run(tmp_path) as run:
        assert names(tmp_path) == [STATE, ".hidden", "onnx-float", "report.json"]
        assert names(run.state) == [child_process.NAME, LOCK]


def test_a_bundle_comes_back_if_a_process_was_killed_while_it_replaced_it(tmp_path: Path) -> None:
    """The new one wasn't there yet, and the old one has a signature that no command makes again."""
    with open_run(tmp_path):
        pass
    (tmp_path / ".onnx-int8.old-12").mkdir()
    (tmp_path / ".onnx-int8.old-12" / "model.sig").touch()
    (tmp_path / ".onnx-int8.tmp-12").mkdir()
    with open_run(tmp_path):
        assert names(tmp_path) == [STATE, "onnx-int8"]
        assert names(tmp_path / "onnx-int8") == ["model.sig"]


def test_leftovers_of_processes_that_a_command_killed_are_removed_when_it_ends(tmp_path: Path) -> None:
    def work() -> None:
        with open_run(tmp_path):
            leave_behind(tmp_path)
            (tmp_path / "onnx-float").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert names(tmp_path) == [STATE, "onnx-float"]
    assert names(tmp_path / STATE) == [child_process.NAME, LOCK]


@dataclass(frozen=True)
class Numbers(Inputs):
    """Inputs of a result in these tests."""

    count: int


ONE, TWO = Numbers(1), Numbers(2)


def test_results_are_recalled_for_equal_inputs(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.remember("row-onnx", ONE, {"p50": 1.5})
        assert run.recall("row-onnx", Numbers(1), dict[str, float]) == {"p50": 1.5}
        assert run.recall("row-onnx", TWO, dict[str, float]) is None
        assert run.recall("row-tflite", ONE, dict[str, float]) is None
        for other in (list[int], dict[str, str], Numbers):
            assert run.recall("row-onnx", ONE, other) is None, "another version stored another type"
        for damaged in ("{", "[]", "3", '{"key": "key"}', json.dumps({"key": ONE.key})):
            (run.state / "row-onnx.json").write_text(damaged)
            assert run.recall("row-onnx", ONE, dict[str, float]) is None


def test_rows_of_a_complete_run_are_set_aside_but_not_the_reference(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.remember("row-onnx", ONE, 1)
        run.remember("reference", ONE, 2)
        run.complete()
        assert run.recall("row-onnx", ONE, int) is None
        assert run.recall("measured-onnx", ONE, int) == 1
        assert run.recall("reference", ONE, int) == 2


@pytest.mark.parametrize("raised", [None, ValueError(), KeyboardInterrupt()])
def test_workspace_is_gone_afterwards(tmp_path: Path, raised: BaseException | None) -> None:
    with open_run(tmp_path) as run:
        try:
            with run.workspace("images") as folder:
                (folder / "pixels.npy").touch()
                if raised:
                    raise raised
        except (ValueError, KeyboardInterrupt):
            pass
        assert not folder.exists()


def test_json_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é": 1})
    assert json.loads(path.read_text("utf-8")) == {"é": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))

    def half(self: Path, text: str, **_: object) -> None:
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with refuses(OutputError, "a.json", os.strerror(errno.ENOSPC)):
        write_json(path, [1, 2, 3])
    assert names(tmp_path) == ["a.json"]
    assert json.loads(path.read_text("utf-8")) == {"é": 1}


def test_writing_lets_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), writing(tmp_path):
        raise ValueError("mine")
