"""Digests used as keys of results: equal values have the same digest in every process."""

import hashlib
from pathlib import Path

import pytest

from edgekit.support.hashes import digest, file_sha256


def test_the_order_of_keys_makes_no_difference() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest((1, "é"), None) == digest([1, "é"], None)


def test_everything_else_does() -> None:
    values = [(), (1,), ("1",), (1, 2), ([1, 2],), (2, 1), (None,), ({"a": 1},), ({"a": 2},), ([1], [2]), ([1, 2], [])]
    assert len({digest(*parts) for parts in values}) == len(values)


def test_values_without_a_stable_text_are_refused() -> None:
    with pytest.raises(TypeError):
        digest("name", object())


def test_files(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
