"""What a run's numbers look like: curves as PNG and one self-contained HTML page."""

from cvft.report.curves import plot_curves, read_log
from cvft.report.html import Answer, Example, write_report

__all__ = ["Answer", "Example", "plot_curves", "read_log", "write_report"]
