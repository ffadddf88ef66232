"""What decoding refuses, as messages say it."""

from pathlib import Path

import pytest

from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError

EVERY = Sampling("uniform", 1000)
DECODERS = ("pyav", "decord")


def error_of(path, *, decoder="pyav", sampling=EVERY):
    with pytest.raises(ClipError) as caught:
        decode_clip(path, sampling=sampling, decoder=decoder)
    return str(caught.value).replace(f"{Path(path).parent}/", "")
