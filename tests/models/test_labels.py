"""Class names that a model's own file contains, and values that are no list of names."""

import argparse
from typing import Any

import pytest
import torch

from edgekit.models.description import KEYS, LONGEST, StoredNames, choose_labels, stored_names

NAMES = ("owl", "cat", "dog")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "{0: 'owl', 1: 'cat', 2: 'dog'}"),  # Ultralytics
        ("names", "{2: 'dog', 1: 'cat', 0: 'owl'}"),
        ("character", "owl\ncat\ndog\n"),  # PaddleOCR
        ("labels", '["owl", "cat", "dog"]'),
        ("labels", "['owl', 'cat', 'dog']"),
        ("classes", "owl,cat, dog"),
        ("classes", "owl\r\ncat\r\ndog"),
        ("id2label", '{"0": "owl", "1": "cat", "2": "dog"}'),  # Hugging Face
        ("class_to_idx", '{"cat": 1, "dog": 2, "owl": 0}'),
        ("class_names", ["owl", "cat", "dog"]),
        ("CLASSES", ("owl", "cat", "dog")),  # OpenMMLab
        ("idx_to_class", {0: "owl", 1: "cat", 2: "dog"}),
        ("class_to_idx", {"cat": 1, "dog": 2, "owl": 0}),
    ],
)
def test_names_as_others_write_them(key: str, value: object) -> None:
    assert stored_names({"epoch": 3, key: value}) == (StoredNames(key, NAMES),)


def test_names_in_nested_dicts_and_namespaces() -> None:
    content = {
        "state_dict": {"classes": torch.zeros(3), "names": list(NAMES)},
        "meta": {"dataset_meta": {"classes": NAMES}},
        "args": argparse.Namespace(class_names=list(NAMES)),
    }
    assert [entry.key for entry in stored_names(content)] == ["args.class_names", "meta.dataset_meta.classes"]
    content["itself"] = content
    assert {entry.names for entry in stored_names(content)} == {NAMES}


@pytest.mark.parametrize(
    "value", [3, 3.5, None, True, "3", "owl", "", [], {}, [1, 2], {"cat": "Katze"}, {0: 1}, torch.zeros(3), object()]
)
def test_values_that_are_no_list_of_names(value: object) -> None:
    for key in KEYS:
        assert stored_names({key: value}) == ()
    assert stored_names(value) == ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{0: 'owl', 1: 'cat'", "is neither a JSON nor a Python list or dict"),
        ("{0: print('owl')}", "is neither a JSON nor a Python list or dict"),
        ("[" * 100_000, "is neither a JSON nor a Python list or dict"),
        ("[" + "-" * 100_000 + "1]", "is neither a JSON nor a Python list or dict"),
        ("{0: 'owl', 2: 'dog'}", "doesn't number its classes 0, 1, 2, …"),
        ({"owl": 0, "cat": 0, "dog": 1}, "doesn't number its classes 0, 1, 2, …"),
        (["owl", " ", "dog"], "has an empty name for output 1"),
        ("owl\n\ndog", "has an empty name for output 1"),
        (["owl", "cat\x1b[31m"], "has a name with a control character"),
        ("[" + "1" * LONGEST, "has 2,097,153 characters, but at most 2,097,152 are read"),
    ],
)
def test_malformed_lists_are_named(value: object, problem: str) -> None:
    assert stored_names({"names": value}) == (StoredNames("names", problem=problem),)


def test_escapes_in_names_cause_no_warning() -> None:
    assert stored_names({"names": r"['\d', 'b']"}) == (StoredNames("names", ("\\d", "b")),)


def labels(*stored: StoredNames, **options: Any) -> Any:
    return choose_labels(**{"path": None, "classes": 3, "stored": stored, "file": "m.onnx", **options})


def test_the_first_list_with_the_right_number_is_used() -> None:
    chosen = labels(StoredNames("names", ("a", "b")), StoredNames("classes", NAMES), StoredNames("labels", ("x",) * 3))
    assert (chosen.names, chosen.origin, chosen.doubt) == (NAMES, "classes", None)


def test_lists_that_do_not_fit_are_ignored_with_a_reason() -> None:
    chosen = labels(StoredNames("names", ("a", "b")), StoredNames("classes", problem="is odd"))
    assert (chosen.names, chosen.origin) == (("class_0", "class_1", "class_2"), None)
    assert chosen.doubt == (
        "the class names in 'm.onnx' are ignored, because the model has 3 outputs and 'names' has 2 names; 'classes' "
        "is odd"
    )
    assert labels().doubt is None


def test_a_labels_file_replaces_the_stored_names(tmp_path: Any) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    chosen = labels(StoredNames("names", NAMES), path=tmp_path / "labels.txt")
    assert (chosen.names, chosen.origin, chosen.doubt) == (("a", "b", "c"), None, None)
