"""Training: the parent side plans, starts and publishes; the worker side speaks ms-swift, and nothing else does."""
