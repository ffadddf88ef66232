"""Turns a clip file into uint8 frames and their seconds.

`sample` chooses frames from timestamps, `decode` joins a sampling rule and a decoder (`pyav`, `decord`) into a `Clip`,
and `worker` does the same in a process of its own, so that a decoder that hangs or crashes costs one clip.
"""
