"""The documents that edgekit writes, and how they are rendered: as JSON, CSV, an HTML page or a terminal table."""

from edgekit.report.answer import answer_lines
from edgekit.report.document import load_report, report_schema
from edgekit.report.html import render_files, write_report

__all__ = ["answer_lines", "load_report", "render_files", "report_schema", "write_report"]
