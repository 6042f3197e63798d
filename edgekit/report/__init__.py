"""The documents that edgekit writes, and how they are rendered: as JSON, CSV, an HTML page or a terminal table."""

from edgekit.report.serialization import load_report, report_schema
from edgekit.report.terminal import render_answer
from edgekit.report.write import render_files, write_report

__all__ = ["load_report", "render_answer", "render_files", "report_schema", "write_report"]
