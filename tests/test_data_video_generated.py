"""300 generated clips: containers, codecs, cuts, time bases, rotations and mirrors agree with FFmpeg, or are refused."""

import os

import numpy as np
import pytest

from cvft.data.video.decode import decode_clip
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError
from tests.generated_clips import FFMPEG, make_clips, show

SEED = int(os.environ.get("CVFT_CLIP_SEED", "13"))
EVERY = Sampling("uniform", 1000)


def differences(clip):
    """What is wrong with how a clip is read: nothing for one that agrees or is refused with reason."""
    shown = show(clip.path)
    try:
        read = decode_clip(clip.path, sampling=EVERY)
    except ClipError as error:
        if clip.is_whole and shown.frames:
            return [f"refused: {error.problems[0].got}"]
        return []
    found = []
    if len(read.frames) != len(shown.frames):
        return [f"{len(read.frames)} frames, FFmpeg shows {len(shown.frames)}"]
    late = np.abs(read.timestamps_s - np.array(shown.times_s))
    sure = late[: len(late) - shown.num_estimated]
    if (np.diff(shown.times_s) < 0).any():  # ffmpeg itself is not sure
        sure = sure[:0]
    # asf counts milliseconds; an mpg has times for some frames only, and ffmpeg guesses the others as they come
    if sure.size and sure.max() > (0.05 if FFMPEG and clip.path.suffix == ".mpg" else 0.003):
        found.append(
            f"frame {int(sure.argmax())} at {read.timestamps_s[sure.argmax()]}, not {shown.times_s[sure.argmax()]}"
        )
    if FFMPEG and not clip.is_whole:  # what a damaged frame looks like differs between releases
        shown.frames = read.frames
    for index, (ours, theirs) in enumerate(zip(read.frames, shown.frames, strict=True)):
        if ours.shape != theirs.shape or np.abs(ours.astype(int) - theirs).mean() > 4:
            found.append(f"frame {index} shows another picture")
            break
    if not clip.is_whole and clip.num_frames and len(read.frames) < clip.num_frames and not read.notes:
        found.append(f"cut from {clip.num_frames} to {len(read.frames)} frames without a word")
    if clip.is_whole and not clip.has_junk and any("state its length" not in note for note in read.notes):
        found.append(f"a whole clip is said to be cut: {read.notes}")
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), seed=SEED, number=300)


def test_generated_clips_agree_with_ffmpeg_or_are_refused(clips):
    wrong = {clip.name: found for clip in clips if (found := differences(clip))}
    assert not wrong, "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())


def test_generated_clips_are_read_where_nothing_is_missing(clips):
    """The other test would pass if everything were refused."""
    num_whole = sum(clip.is_whole for clip in clips)
    assert 200 < num_whole < 290
