"""Looks at rows and clips before anything trains on them, and names what it finds by kind.

files of rows + sampling rule -> rows, clips decoded once in processes of their own -> `Finding`s -> text or JSON

Changes nothing: no row is repaired, and what is found stands beside the data.
"""
