"""Families of video models whose inputs ms-swift's own templates make, from frames that cvft decodes."""
