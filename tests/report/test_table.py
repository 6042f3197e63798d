"""Tables as lines within a width."""

import pytest

from edgekit.report.page import Column, fitting, markdown_of, table_lines

NAMES = Column("", ["onnx-int8", "tflite-int8"], left=True)
MS = Column("ms", ["0.81", "10.50"])
SIZE = Column("MB", ["2.5", "2.9"], rank=2)
VERDICT = Column("verdict", ["pass", "fail"], left=True)
LONG = Column("", ["runs/" + "a" * 60 + "/onnx-int8", "x"], left=True)


def test_a_table() -> None:
    assert table_lines([NAMES, MS, SIZE, VERDICT], 80) == [
        "                ms   MB  verdict",
        "onnx-int8     0.81  2.5  pass",
        "tflite-int8  10.50  2.9  fail",
    ]


def test_the_highest_rank_is_left_out_first() -> None:
    assert table_lines([NAMES, MS, SIZE, VERDICT], 30)[0].split() == ["ms", "verdict"]


@pytest.mark.parametrize("width", [30, 40, 80])
def test_long_names_have_lines_of_their_own(width: int) -> None:
    lines = table_lines([LONG, MS, SIZE, VERDICT], width)
    assert max(map(len, lines)) <= width
    assert LONG.texts[0] in "".join(lines)
    assert lines[-2:] == ["x", "  10.50  2.9  fail"]


DROP = Column("drop\npoints [95 %]", ["0.09 [-0.11, 0.29]", "–"], rank=1)  # noqa: RUF001


def test_columns_are_whole_or_left_out() -> None:
    assert table_lines([NAMES, DROP, VERDICT], 80)[2] == "onnx-int8    0.09 [-0.11, 0.29]  pass"
    assert [column.head for column in fitting([NAMES, DROP, VERDICT], 25)] == ["", "verdict"]


def test_a_table_in_markdown() -> None:
    assert markdown_of([NAMES, DROP]).splitlines() == [
        "|  | drop points \\[95 %] |",
        "| --- | ---: |",
        "| onnx-int8 | 0.09 [-0.11, 0.29] |",
        "| tflite-int8 | – |",  # noqa: RUF001
    ]
