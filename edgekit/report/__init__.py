"""A finished report (a dict, see schema.json) as JSON, CSV, a page and a table. Measures nothing."""

from edgekit.report.schema import load_report, validate
from edgekit.report.terminal import render_table
from edgekit.report.write import write_report

__all__ = ["load_report", "render_table", "validate", "write_report"]
