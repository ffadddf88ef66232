"""Clips that rows name by URL: the one place of this package that asks the network for them.

text of a row -> `ClipUrl` (strict) -> addresses of its host, looked at -> bytes within limits -> a file named by its content
"""
