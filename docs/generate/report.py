"""The figures of report.json that tables show, from their table."""

from docs.generate.markdown import code, plain, table
from edgekit.report.figure import all_figures


def figures_table() -> str:
    """The figures of a row that tables show, those of the first columns first."""
    ranked = sorted(
        (figure for figure in all_figures() if figure.rank is not None), key=lambda figure: figure.rank or 0
    )
    rows = []
    for figure in ranked:
        interval = f"; 95 % interval in {code(figure.interval)}" if figure.interval else ""
        rows.append((code(figure.path), figure.title, figure.unit, plain(figure.meaning) + interval))
    return table(("field", "column", "unit", "meaning"), rows) + "\n"
