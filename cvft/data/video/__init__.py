"""Turns a clip file into uint8 frames and their seconds.

`sample` chooses frames from timestamps, `reader` says what a decoder gives (`pyav`, `decord`), `decode` joins the two into a
`Clip`, and `process` does the same in a process of its own, so that a decoder that hangs or crashes costs one clip.
"""
