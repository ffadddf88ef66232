"""The checkpoints known by name, and what a recipe's model.path means."""

from pathlib import Path

import pytest

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.checkpoints import PUBLISHED
from cvft.families.table import SHIPPED_CHECKPOINTS, describe_checkpoints, known_checkpoints
from cvft.recipe import load_recipe
from cvft.shipped import SHIPPED
from cvft.weights.checkpoints import find_checkpoint
from cvft.weights.hub import Source, locate_model


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
    found = find_checkpoint(path, PUBLISHED)
    assert (found.name if found else None) == name


def test_the_list_names_all_with_size_and_licence():
    text = describe_checkpoints()
    for checkpoint in (*SHIPPED_CHECKPOINTS, *PUBLISHED):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{checkpoint.name} ")]
        assert checkpoint.licence in line
        assert checkpoint.template in line
    for said in ("zai-org/NAME", "ms:ZhipuAI/NAME", "hf:OWNER/NAME", *COMMANDS.format("NAME").split("`")[1::2]):
        assert said in text
    assert [checkpoint.name for checkpoint in SHIPPED_CHECKPOINTS] == list(SHIPPED)
    for checkpoint in SHIPPED_CHECKPOINTS:
        num_bytes = sum(path.stat().st_size for path in SHIPPED[checkpoint.name].folder.iterdir())
        assert abs(checkpoint.num_bytes - num_bytes) < 200_000


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What would be fetched, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    found = []

    def fetch(model_id, hub, revision, needs_weights, commands):
        found.append((hub, model_id, revision))
        return Source(tmp_path, hub, model_id, "commit")

    monkeypatch.setattr("cvft.weights.hub._fetch", fetch)
    return found


@pytest.mark.parametrize(
    ("path", "hub", "model_id"),
    [
        ("hf:zai-org/cogvlm2-video-llama3-chat", "huggingface", "zai-org/cogvlm2-video-llama3-chat"),
        ("hf:me/mine", "huggingface", "me/mine"),
        ("ms:me/mine", "modelscope", "me/mine"),
        ("zai-org/VisionReward-Video", "huggingface", "zai-org/VisionReward-Video"),
        ("THUDM/cogvlm2-llama3-caption", "huggingface", "THUDM/cogvlm2-llama3-caption"),
    ],
)
def test_an_id_is_asked_for_by_its_prefix_or_by_a_published_name(asked, path, hub, model_id):
    assert locate_model(path, revision="v1", known=PUBLISHED).model_id == model_id
    assert asked == [(hub, model_id, "v1")]


COMMANDS = (
    "`hf download zai-org/{0} --local-dir checkpoints/{0}` or "
    "`modelscope download --model ZhipuAI/{0} --local_dir checkpoints/{0}`"
)
CHAT, CAPTION = "cogvlm2-video-llama3-chat", "cogvlm2-llama3-caption"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (f"checkpoints/THUDM/{CHAT}", f"did you mean `hf:zai-org/{CHAT}`? Or download it: {COMMANDS.format(CHAT)}"),
        (f"checkpoints/{CHAT}", f"did you mean `hf:zai-org/{CHAT}`? Or download it: {COMMANDS.format(CHAT)}"),
        ("/x/cogvlm2-capton", f"did you mean `hf:zai-org/{CAPTION}`? Or download it: {COMMANDS.format(CAPTION)}"),
        ("zai-org/CogVLM2-llama3-caption", f"did you mean `hf:zai-org/{CAPTION}`? Or download it: "),
        (f"ZhipuAI/{CHAT}", f"did you mean `ms:ZhipuAI/{CHAT}`? Or download it: "),
        ("me/mine", "did you mean `hf:me/mine` or `ms:me/mine`?"),
        ("./me/mine", "is the path right? `cvft models` lists the published checkpoints"),
        ("mine", "is the path right? `cvft models` lists the published checkpoints"),
        ("hg:me/mine", "did you mean `hf:me/mine` or `ms:me/mine`?"),
        ("hf:mine", "is the path right?"),
        (f"ms:{CHAT}", f"did you mean `ms:ZhipuAI/{CHAT}`? Or download it: "),
    ],
)
def test_a_path_is_never_asked_for_and_both_ways_are_told_when_it_is_missing(asked, path, hint):
    with pytest.raises(ModelError) as caught:
        locate_model(path, revision="v1", known=PUBLISHED)
    (problem,) = caught.value.problems
    assert problem.where == "model.path"
    assert problem.got in (f"no folder {path}", f"`{path}`")
    assert problem.need == "a model folder, a hub id (`hf:owner/name` or `ms:owner/name`), `tiny` or `tiny-qwen3-vl`"
    assert problem.hint.startswith(hint)
    assert asked == []


def test_a_published_name_beside_a_folder_of_its_owner_is_a_path(asked, tmp_path):
    path = f"zai-org/{CHAT}"
    (tmp_path / "zai-org").mkdir()
    with pytest.raises(ModelError, match=f"no folder {path}, need .*\n.* did you mean `hf:{path}`"):
        locate_model(path, revision=None, known=PUBLISHED)
    (tmp_path / path).mkdir()
    assert locate_model(path, revision=None, known=PUBLISHED) == Source(Path(path))
    assert asked == []


def test_a_model_in_the_current_folder_is_told_when_the_recipe_means_another_place(asked, tmp_path):
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints" / "mine" / "config.json").touch()
    with pytest.raises(
        ModelError, match=r"a relative path starts at the recipe .* give `model.path=checkpoints/mine` "
    ):
        locate_model("/job/recipes/checkpoints/mine", revision=None, known=PUBLISHED)


def test_recipes_that_ship_name_what_can_be_fetched():
    paths = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
    assert len(paths) >= 3
    names = set(SHIPPED).union(*(checkpoint.hugging_face_ids for checkpoint in known_checkpoints()))
    assert {load_recipe(path).recipe.model.path for path in paths} <= names


def test_a_folder_has_no_revision(asked, tmp_path):
    for path in (*SHIPPED, str(tmp_path)):
        with pytest.raises(ModelError, match=r"model.revision: got `v1` beside a local folder, need no such setting"):
            locate_model(path, revision="v1", known=PUBLISHED)
    assert asked == []
