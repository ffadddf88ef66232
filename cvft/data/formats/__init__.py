"""Rows of other tools: each format is a function from one JSON object to the native columns of one or more rows.

file -> objects (`files`) -> format, named or found (`table`) -> native columns (`conversations`, `pairs`) -> `cvft.data.rows`

What a native row has no place for (roles of tools, sounds) is refused row by row, and never left out.
"""
