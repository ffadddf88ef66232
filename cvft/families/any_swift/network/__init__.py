"""What carries ms-swift's inputs into transformers' own classes."""
