"""The columns of reports with their meanings, which cog writes into the Markdown: `make figures`."""

from docs.generate.markdown import plain, table
from edgekit.report.row import all_figures


def columns_table() -> str:
    """The columns of the page, the most important first; the page has the same meanings as tooltips."""
    shown = sorted((figure for figure in all_figures() if figure.rank is not None), key=lambda figure: figure.rank or 0)
    rows = [(figure.title, figure.unit, plain(figure.meaning)) for figure in shown]
    return table(("column", "unit", "meaning"), rows) + "\n"
