"""What a run's numbers look like: one table for terminal, card and page, curves as PNG, one self-contained HTML page."""

from cvft.report.curves import plot_curves, read_log
from cvft.report.html import Answer, Example, write_report
from cvft.report.terminal import metrics_table

__all__ = ["Answer", "Example", "metrics_table", "plot_curves", "read_log", "write_report"]
