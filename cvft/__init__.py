"""cvft: fine-tuning for video language models, from a typed recipe to a verified, evaluated checkpoint."""

__version__ = "0.1.0"
