"""Answers scored: `metrics` are rules over texts, `run` answers a run's val rows and keeps every prediction."""
