"""What differs between models: each family answers the questions of `family.Family`, and nobody else names one.

config.json -> `table.find_family` -> `Family` (no torch) -> `load_runtime` -> `Runtime`, `Encoder` (torch)
"""
