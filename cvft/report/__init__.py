"""What a run's numbers look like: tables and sentences for terminal, card and page, curves, one self-contained HTML page."""

from cvft.report.curves import plot_curves
from cvft.report.html import write_report
from cvft.report.terminal import metrics_table
from cvft.training_log import read_log

__all__ = ["metrics_table", "plot_curves", "read_log", "write_report"]
