"""A judge: another model, asked over HTTP how good stored answers are.

evaluations + rubrics -> `Case` (rows, request) -> `Endpoint` -> replies, each kept as it comes -> scores beside the predictions

Nothing here makes a score up: one comes from a reply that states it, or is missing, and what is missing is counted and shown.
"""
