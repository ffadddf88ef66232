"""A job is opened once: everything that recipe, family, folder and machine refuse is one error, before anything is fetched."""

import json
import shutil

import pytest

from cvft.errors import CvftError, ModelError, RecipeError, RunError
from cvft.plan.job import open_job
from cvft.plan.machine import GpuFacts, Machine
from cvft.recipe import load_recipe
from tests.project import make_project
from tests.tiny import TINY

BARE = Machine(gpus=(), host_bytes=2**34)


def refusal(recipe, *overrides, machine=BARE, **options) -> CvftError:
    with pytest.raises(CvftError) as raised:
        open_job(load_recipe(recipe, overrides=overrides), machine=machine, **options)
    return raised.value


def test_a_job_knows_what_a_command_needs(tmp_path):
    job = open_job(load_recipe(make_project(tmp_path)), machine=BARE, trains=True)
    assert job.family.name == job.model.family.name
    assert job.model.path == TINY
    assert job.preprocessing.template == job.contract.template == "chat"
    assert job.contract.fields == job.preprocessing.fields
    assert (job.ranks.device, job.ranks.num) == ("cpu", 1)
    assert job.memory_bytes == BARE.host_bytes
    assert job.features_root == (tmp_path / "runs" / ".features").absolute()
    assert job.feature_key.tower_sha256
    assert job.contract is job.contract  # fingerprinted once
    assert not (tmp_path / "runs").exists()


def test_machine_folder_and_recipe_refuse_in_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("NNODES", "7")
    recipe = make_project(tmp_path)
    error = refusal(recipe, "lora.targets=[nonsense]", "export.keep_remote_code=true", trains=True)
    told = str(error)
    assert "environment variable NNODES: got `7`, need `1`" in told
    assert "lora.targets: got `nonsense`" in told
    assert "export.keep_remote_code: got no *.py file" in told
    assert told.startswith("recipe small on this machine has 3 problems")


def test_one_refusal_is_the_error_itself(tmp_path, monkeypatch):
    recipe = make_project(tmp_path)
    assert isinstance(
        refusal(recipe, "parallel.strategy=ddp", "parallel.device=cuda", "parallel.num_gpus=2"), RecipeError
    )
    folder = tmp_path / "cut"
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:-5])
    assert isinstance(refusal(recipe, f"model.path={folder}"), ModelError)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert isinstance(refusal(recipe, trains=True), RunError)
    open_job(load_recipe(recipe), machine=BARE)  # what reads a run does not train, and asks nothing of the shell


def test_nothing_is_fetched_for_a_machine_that_cannot_train(tmp_path, monkeypatch):
    import cvft.plan.job as job_module

    monkeypatch.setattr(job_module, "locate_model", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.setenv("RANK", "1")
    error = refusal(make_project(tmp_path), "model.path=hf:me/large-model", trains=True)
    assert "environment variable RANK" in str(error)


def test_a_machine_to_plan_for_decides_ranks_and_memory(tmp_path):
    gpus = (GpuFacts("big", 80 * 2**30), GpuFacts("small", 24 * 2**30))
    loaded = load_recipe(make_project(tmp_path, parallel={"device": "auto"}), overrides=["parallel.strategy=ddp"])
    job = open_job(loaded, machine=Machine(gpus, 2**36), needs_weights=False)
    assert (job.ranks.device, job.ranks.num) == ("cuda", 2)
    assert job.memory_bytes == 24 * 2**30
    assert job.model.shards is None


def test_a_folder_without_weights_serves_to_plan_and_not_to_train(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(TINY / name, folder)
    recipe = make_project(tmp_path)
    open_job(load_recipe(recipe, overrides=[f"model.path={folder}"]), machine=BARE, needs_weights=False)
    assert "no *.safetensors file" in str(refusal(recipe, f"model.path={folder}"))
    (folder / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    assert "architectures: got `['Other']`" in str(refusal(recipe, f"model.path={folder}", needs_weights=False))
