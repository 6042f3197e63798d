"""The documents that edgekit writes, and how they are rendered: as JSON, CSV, an HTML page or a terminal table."""

from edgekit.report.answer import render_answer
from edgekit.report.document import load_report, report_schema
from edgekit.report.html import render_files, write_report

__all__ = ["load_report", "render_answer", "render_files", "report_schema", "write_report"]
