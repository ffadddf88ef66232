"""Tells a clip that was cut off while it was copied from a short one, by what its container states.

    path --find_ending--> Ending: bytes that are missing, the length that the header states, or a note
    Ending + packets that were found --check_length--> notes for the user, or an error

Decoders give the frames that are left of such a file, so that it would pass for a shorter clip. What a container states
is believed: sizes of its parts, and its length where frames end earlier. Where it states nothing, a note says so.
"""

from cvft.data.video.truncation.check import check_length, find_ending
from cvft.data.video.truncation.ending import Ending

__all__ = ["Ending", "check_length", "find_ending"]
