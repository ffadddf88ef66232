"""A model folder as files, for any family: where it comes from, what is in it, whether it is whole. No torch."""
