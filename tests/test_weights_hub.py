"""Model ids: fetched by the real client from a hub on this machine, pinned to a commit, and never asked for again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.hub_server import Hub
from tests.official_folder import small_config, write_official_folder
from tests.project import cvft, cvft_ok, make_project

ID = "zai-org/cogvlm2-video-llama3-chat"


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    config = small_config(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    return write_official_folder(tmp_path_factory.mktemp("official") / "folder", config=config, seed=0)


@pytest.fixture
def hub(tmp_path):
    running = Hub(tmp_path / "hub")
    yield running
    running.close()


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        **more,
    }


def model_section(**more) -> dict:
    return {"path": ID, "dtype": "bf16", **more}


def test_an_id_is_fetched_pinned_and_recorded(hub, official, tmp_path):
    commit = hub.publish(ID, official)
    env = environment(hub, tmp_path)
    recipe = make_project(tmp_path / "job", model=model_section(), train={"max_steps": 1})

    cvft_ok("plan", recipe, env=env)
    assert not [request for request in hub.requests if "safetensors" in request and "index" not in request]

    result = cvft_ok("train", recipe, env=env)
    assert f"model     {ID} at {commit} (huggingface)" in result.stderr
    manifest = json.loads((tmp_path / "job" / "runs" / "small" / "manifest.json").read_text())
    assert manifest["base"] == {"path": ID, "hub": "huggingface", "id": ID, "commit": commit}
    assert manifest["contract"]["template"] == "chat"
    assert not list(tmp_path.rglob("CODE_RAN"))
    assert not (official / "CODE_RAN").exists()

    # a commit needs no hub any more
    seen = len(hub.requests)
    pinned = make_project(tmp_path / "pinned", model=model_section(revision=commit))
    cvft_ok("plan", pinned, env=env)
    assert hub.requests[seen:] == []

    # the main branch moves, the pinned recipe does not
    (tmp_path / "changed").mkdir()
    moved = write_official_folder(
        tmp_path / "changed" / "folder",
        config=small_config(hidden_size=32, intermediate_size=64, num_hidden_layers=1),
        seed=1,
    )
    hub.publish(ID, moved)
    layers = [
        json.loads(cvft_ok("plan", each, "--json", env=env).stdout)["parameters"]["total"] for each in (pinned, recipe)
    ]
    assert layers[0] > layers[1]


def test_pickles_are_not_fetched(hub, official, tmp_path):
    (official / "pytorch_model.bin").write_bytes(b"a pickle")
    try:
        hub.publish(ID, official)
    finally:
        (official / "pytorch_model.bin").unlink()
    cvft_ok("plan", make_project(tmp_path / "job", model=model_section()), env=environment(hub, tmp_path))
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"path": "hf:nobody/nothing"},
            "model.path: nobody/nothing: got no such repository, need a repository on the hub",
        ),
        ({"revision": "v9"}, "revision `v9`: got no such revision, need a repository on the hub"),
        ({"path": "hf:owner/gated"}, "model.path: owner/gated: got a repository that asks for consent"),
        ({"path": "owner/gated"}, "model.path: got no folder owner/gated, need a model folder, a hub id ("),
        (
            {"path": "tiny", "revision": "main"},
            "model.revision: got `main` beside a local folder, need no such setting",
        ),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_error(hub, official, tmp_path, section, message):
    hub.publish(ID, official)
    hub.publish("owner/gated", official)
    hub.gated.add("owner/gated")
    recipe = make_project(tmp_path / "job", model={"path": ID, "dtype": "bf16", **section})
    result = cvft("train", recipe, env=environment(hub, tmp_path))
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "job" / "runs").exists()


def test_a_repository_without_weights_is_refused(hub, official, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for path in official.iterdir():
        if path.name != "model-00003-of-00006.safetensors":
            (half / path.name).write_bytes(path.read_bytes())
    hub.publish(ID, half)
    result = cvft("train", make_project(tmp_path / "job", model=model_section()), env=environment(hub, tmp_path))
    assert result.returncode == 2
    assert f"{ID}: got no model-00003-of-00006.safetensors, need the files of a published checkpoint" in result.stderr


def test_without_a_network_the_commands_are_told_and_what_is_there_serves(hub, official, tmp_path):
    commit = hub.publish(ID, official)
    env = environment(hub, tmp_path)
    recipe = make_project(tmp_path / "job", model=model_section())
    cvft_ok("plan", recipe, env=env)
    hub.close()
    result = cvft_ok("plan", recipe, "--json", env=env)  # the branch as it was last seen
    assert json.loads(result.stdout)["parameters"]["total"] > 0
    other = make_project(tmp_path / "other", model=model_section(path="zai-org/cogvlm2-llama3-caption"))
    assert "about" in cvft_ok("plan", other, env=env).stdout  # its sizes are known, lengths of text are estimated
    result = cvft("train", other, env=env)
    assert result.returncode == 2
    assert "need a folder here, or a hub that answers" in result.stderr
    assert "`hf download zai-org/cogvlm2-llama3-caption" in result.stderr
    assert commit


def test_an_id_is_fetched_from_modelscope(hub, official, tmp_path):
    hub.publish("ZhipuAI/cogvlm2-video-llama3-chat", official, branch="master")
    address = {"MODELSCOPE_ENDPOINT": hub.url, "MODELSCOPE_CACHE": str(tmp_path / "modelscope")}
    env = environment(hub, tmp_path, **address)
    section = model_section(path="ms:ZhipuAI/cogvlm2-video-llama3-chat")
    cvft_ok("plan", make_project(tmp_path / "job", model=section), env=env)
    assert not [request for request in hub.requests if "safetensors" in request]
    code = (
        "import sys; from cvft.weights.hub import locate_model; from cvft.weights.shards import read_shards; "
        "from cvft.weights.folder import read_config_json; "
        "from cvft.families.cogvlm2_video.tensors import published_shapes; "
        "source = locate_model(sys.argv[1], revision=None, known=()); "
        "read_shards(source.folder, published_shapes(read_config_json(source.folder))); print(source.commit, source.hub)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, section["path"]], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "master modelscope"
    recipe = make_project(tmp_path / "other", model=model_section(path="ms:ZhipuAI/nothing"))
    result = cvft("plan", recipe, env=env)
    assert result.returncode == 2
    assert "model.path: ZhipuAI/nothing: got" in result.stderr
    assert "`modelscope download --model ZhipuAI/nothing --local_dir checkpoints/nothing`" in result.stderr


@pytest.fixture(scope="module")
def run(official, tmp_path_factory) -> Path:
    """A finished run on a folder that is named after a published checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    base = folder / "cogvlm2-video-llama3-chat"
    base.symlink_to(official)
    recipe = make_project(
        folder, model={"path": str(base), "dtype": "bf16"}, train={"max_steps": 1}, eval={"max_new_tokens": 2}
    )
    cvft_ok("run", recipe)
    return folder / "runs" / "small"


def test_a_merged_model_is_published_whole_with_its_card(hub, run, tmp_path):
    result = cvft_ok("push", run, "--to", "me/tuned", "--private", env=environment(hub, tmp_path))
    commit = hub.branches["me/tuned"]["main"]
    assert f"published me/tuned (merged)\ncommit    {hub.url}/me/tuned/commit/{commit}" in result.stdout
    sent = {path.name: path.read_bytes() for path in hub.files(commit)}
    ours = {path.name: path.read_bytes() for path in (run / "merged").iterdir()}
    assert sent.keys() == ours.keys() - {"README_zh.md", ".gitattributes"}
    assert [name for name in sent if sent[name] != ours[name]] == ["README.md", "recipe.yaml"]
    assert str(run.parent.parent).encode() not in b"".join(sent.values())

    card = sent["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == ID
    assert head["pipeline_tag"] == "video-text-to-text"
    for said in (
        "| val rows: 3 | base | merged |",
        "answers of adapter and merged model are identical",
        "Template `chat`",
    ):
        assert said in card
    assert f"model:\n  path: hf:{ID}\n" in card

    # what is published is found by its id like any base
    recipe = make_project(tmp_path / "again", model={"path": "hf:me/tuned", "dtype": "bf16"}, train={"max_steps": 1})
    cvft_ok("train", recipe, env=environment(hub, tmp_path))


def test_an_adapter_is_published_with_its_base_by_name(hub, run, tmp_path):
    cvft_ok("push", run, "--to", "me/adapter", "--model", "adapter", env=environment(hub, tmp_path))
    sent = {path.name: path.read_bytes() for path in hub.files(hub.branches["me/adapter"]["main"])}
    assert sent.keys() == {path.name for path in (run / "adapter").iterdir()} | {"README.md"}
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == ID
    assert sent["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert str(run.parent.parent).encode() not in b"".join(sent.values())


def test_a_card_is_written_without_a_hub(run, tmp_path):
    cvft_ok("push", run, "--to", "me/tuned", "--card", tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other"
    assert head["tags"] == ["video", "cogvlm2-video", "cvft"]
    assert str(run.parent.parent) not in text


def test_a_card_says_where_its_base_was_fetched_also_of_a_run_that_was_moved_away_from_it(run, tmp_path):
    other = tmp_path / "far" / "away" / "small"
    shutil.copytree(run, other, symlinks=True)
    assert [path.name for path in (other / "model_view").iterdir() if not path.exists()]
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["base"].update(hub="modelscope", id="ZhipuAI/base", commit="v2")
    (other / "manifest.json").write_text(json.dumps(manifest))
    cvft_ok("push", other, "--to", "me/tuned", "--card", tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "ZhipuAI/base"
    assert "model:\n  path: ms:ZhipuAI/base\n  revision: v2\n" in text


def test_what_is_not_verified_is_not_published(hub, run, tmp_path):
    other = tmp_path / "small"
    shutil.copytree(run, other)
    (other / "merged" / "cvft_verification.json").unlink()
    env = environment(hub, tmp_path)
    result = cvft("push", other, "--to", "me/tuned", env=env)
    assert result.returncode == 2
    assert "merged/: got no verification, need cvft_verification.json" in result.stderr
    shutil.rmtree(other / "merged")
    result = cvft("push", other, "--to", "tuned", env=env)
    assert result.returncode == 2
    assert "merged/: got no such folder" in result.stderr
    assert "--to: got `tuned`, need owner/name on the hub" in result.stderr
    assert hub.requests == []
    hub.close()
    result = cvft("push", run, "--to", "me/tuned", env=env)
    assert result.returncode == 2
    assert "me/tuned: got " in result.stderr
    assert "need a repository to write to" in result.stderr
