"""The model itself, native to transformers, with the published state-dict keys: one part per file."""
