"""Metrics of answers: no torch, no model, one table of kinds of answers (`kinds.KINDS`)."""

from cvft.evaluate.metrics.overlap import is_exact_match, rouge_l, token_f1
from cvft.evaluate.metrics.scoring import METRIC_NAMES, RowScore, compute_metrics, score_rows, summarize

__all__ = [
    "METRIC_NAMES",
    "RowScore",
    "compute_metrics",
    "is_exact_match",
    "rouge_l",
    "score_rows",
    "summarize",
    "token_f1",
]
