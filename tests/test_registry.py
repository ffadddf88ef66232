"""The checkpoints known by name."""

import pytest

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.checkpoints import PUBLISHED, TINY, describe_checkpoints, find_published
from cvft.weights.folder import tiny_checkpoint_path
from cvft.weights.hub import locate_model


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("zai-org/cogvlm2-video-llama3-chat", "cogvlm2-video-llama3-chat"),
        ("/data/THUDM--cogvlm2-video-llama3-base/", "cogvlm2-video-llama3-base"),
        ("ZhipuAI/cogvlm2-llama3-caption", "cogvlm2-llama3-caption"),
        ("models/visionreward-video", "VisionReward-Video"),
        ("my/model", None),
        ("tiny", None),
    ],
)
def test_a_published_checkpoint_is_found_whoever_owns_it(path, name):
    found = find_published(path)
    assert (found.name if found else None) == name


def test_the_list_names_all_with_size_and_licence():
    text = describe_checkpoints()
    for checkpoint in (TINY, *PUBLISHED):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{checkpoint.name} ")]
        assert checkpoint.licence in line
        assert checkpoint.template in line
    shipped = sum(path.stat().st_size for path in tiny_checkpoint_path().iterdir())
    assert abs(TINY.num_bytes - shipped) < 200_000


def test_a_folder_that_is_not_there_is_told_with_the_commands_that_get_it():
    with pytest.raises(ModelError, match=r"hf download zai-org/cogvlm2-video-llama3-chat --local-dir checkpoints/"):
        locate_model("checkpoints/THUDM/cogvlm2-video-llama3-chat", hub="huggingface", revision=None, known=PUBLISHED)
