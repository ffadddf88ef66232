"""The `parallel` section: what it refuses, what it starts on each machine, and what a DeepSpeed file may say beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.errors import RecipeError
from cvft.plan.deepspeed_config import read_deepspeed_config
from cvft.plan.describe import describe_forecast
from cvft.plan.forecast import forecast
from cvft.plan.machine import check_packages
from cvft.plan.ranks import node_rank_of
from cvft.recipe import load_recipe, weights_fingerprint
from tests.project import cvft, cvft_ok, make_project
from tests.test_plan import make_recipe, plan_of

RECIPES = Path(__file__).parent.parent / "recipes"
TINY_ROWS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "train.jsonl"
TWO_NODES = {"strategy": "zero2", "num_gpus": 4, "num_nodes": 2, "rendezvous": "node0:29500"}


@pytest.mark.parametrize(
    ("parallel", "told"),
    [
        ({"node_rank": 1}, "parallel.node_rank: got `1` with `parallel.num_nodes` 1, need no such setting"),
        ({"rendezvous": "a:1"}, "parallel.rendezvous: got `a:1` with `parallel.num_nodes` 1, need no such setting"),
        ({"rendezvous_timeout_s": 5.0}, "parallel.rendezvous_timeout_s: got `5.0` with `parallel.num_nodes` 1"),
        ({**TWO_NODES, "rendezvous": None}, "parallel.rendezvous: got nothing with `parallel.num_nodes` 2, need"),
        (
            {**TWO_NODES, "strategy": "single", "num_gpus": 1},
            "parallel.strategy: got `single` with `parallel.num_nodes` 2",
        ),
        ({**TWO_NODES, "node_rank": 2}, "parallel.node_rank: got `2`, need 0 to 1: there are 2 nodes"),
        ({**TWO_NODES, "rendezvous": "node0"}, "parallel.rendezvous: got `node0`, need `host:port` with a port"),
        ({**TWO_NODES, "rendezvous": "node0:70000"}, "parallel.rendezvous: got `node0:70000`, need `host:port`"),
        (
            {"strategy": "ddp", "num_gpus": 2, "deepspeed_config": "x.json"},
            "parallel.deepspeed_config: got a file with `parallel.strategy` ddp, need no such setting",
        ),
    ],
)
def test_settings_without_effect_or_sense_are_refused(parallel, told):
    with pytest.raises(RecipeError) as raised:
        make_recipe(parallel=parallel)
    assert told in str(raised.value)


def test_a_batch_that_does_not_divide_names_the_nearest_batches_and_ranks():
    with pytest.raises(RecipeError) as raised:
        make_recipe(parallel={**TWO_NODES, "num_gpus": 3}, train={"global_batch_rows": 16})
    assert "train.global_batch_rows: got `16`, need a multiple of 6 (train.micro_batch_rows 1 x 6 ranks)" in str(
        raised.value
    )
    assert "hint: nearest: `12` or `18`; or 4 or 8 ranks" in str(raised.value)


def test_two_nodes_share_one_global_batch():
    plan = plan_of(num_gpus_present=4, parallel={**TWO_NODES, "node_rank": 1}, train={"global_batch_rows": 16})
    assert (plan.worker.num_ranks, plan.worker.num_nodes) == (8, 2)
    words = " ".join(plan.launch.command)
    assert "--nnodes 2 --node-rank 1 --master-addr node0 --master-port 29500" in words
    assert "--standalone" not in words


@pytest.mark.cpu
def test_a_machine_must_know_which_of_the_nodes_it_is(tmp_path):
    told = "parallel.node_rank: got nothing, need which of the 2 nodes this machine is, from 0"
    with pytest.raises(RecipeError) as raised:
        node_rank_of(make_recipe(parallel=TWO_NODES))
    assert told in str(raised.value)
    assert node_rank_of(make_recipe(parallel={**TWO_NODES, "node_rank": 1})) == 1
    assert node_rank_of(make_recipe()) == 0
    result = cvft("train", make_project(tmp_path, parallel={**TWO_NODES, "strategy": "ddp", "num_gpus": 1}))
    assert result.returncode == 2
    assert told in result.stderr
    assert not (tmp_path / "runs").exists()


def test_ranks_do_not_change_what_is_trained_but_the_batch_does():
    one = make_recipe()
    assert weights_fingerprint(make_recipe(parallel=TWO_NODES)) == weights_fingerprint(one)
    assert weights_fingerprint(make_recipe(train={"global_batch_rows": 8})) != weights_fingerprint(one)


def test_nodes_with_other_recipes_do_not_meet():
    def meeting_id(**sections):
        command = plan_of(num_gpus_present=4, parallel={**TWO_NODES, "node_rank": 0}, **sections).launch.command
        return command[command.index("--rdzv-id") + 1]

    assert meeting_id() == meeting_id()
    assert meeting_id(lora={"rank": 16}) != meeting_id()


def test_all_ranks_pass_through_a_tower_that_they_share():
    def runs_tower_always(**sections):
        return plan_of(num_gpus_present=2, **sections).worker.loading.runs_tower_always

    trained = {"targets": "all-linear", "train_vision_tower": True}
    assert runs_tower_always(lora=trained)
    assert not runs_tower_always()
    assert not runs_tower_always(parallel={"strategy": "zero2", "num_gpus": 2})
    assert runs_tower_always(parallel={"strategy": "zero2", "num_gpus": 2}, lora=trained)
    assert runs_tower_always(parallel={"strategy": "zero3", "num_gpus": 2})


def test_offloading_says_which_tools_it_lacks(monkeypatch):
    recipe = make_recipe(parallel={"strategy": "zero2_offload", "num_gpus": 2})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecipeError, match="need `c\\+\\+` and `ninja` on PATH"):
        check_packages(recipe)


def with_deepspeed(path: Path, config: object, **sections):
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    parallel = {"strategy": "zero2", "num_gpus": 2, "deepspeed_config": path, **sections.pop("parallel", {})}
    return make_recipe(parallel=parallel, **sections)


def test_a_deepspeed_file_of_ones_own_reaches_the_plan(tmp_path):
    config = {
        "zero_optimization": {"stage": 2, "overlap_comm": True},
        "train_batch_size": "auto",
        "bf16": {"enabled": True},
    }
    recipe = with_deepspeed(tmp_path / "ds.json", config, model={"path": "m", "dtype": "bf16"})
    plan = plan_of(
        num_gpus_present=2,
        model={"path": "m", "dtype": "bf16"},
        parallel={"strategy": "zero2", "num_gpus": 2, "deepspeed_config": tmp_path / "ds.json"},
    )
    assert plan.swift["deepspeed"] == config == read_deepspeed_config(recipe, num_ranks=2)


def test_everything_that_contradicts_the_recipe_is_told_at_once(tmp_path):
    config = {
        "train_batch_size": 32,
        "gradient_clipping": 0.5,
        "fp16": {"enabled": True},
        "zero_optimization": {"stage": 3},
        "optimizer": {"type": "Adam"},
    }
    with pytest.raises(RecipeError) as raised:
        read_deepspeed_config(with_deepspeed(tmp_path / "ds.json", config), num_ranks=2)
    told = str(raised.value)
    assert "has 5 problems" in told
    assert "train_batch_size: got `32`, need `16`, from the recipe's `train.global_batch_rows`" in told
    assert "gradient_clipping: got `0.5`, need `1.0`" in told
    assert "fp16.enabled: got `true`, need `false`" in told
    assert "zero_optimization.stage: got `3`, need `2`, from the recipe's `parallel.strategy`" in told
    assert "optimizer: got a section of its own, need no such section" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "need JSON"),
        ("[1]", "got `[1]` in place of an object, need JSON"),
        ("{}", "stage: got nothing"),
    ],
)
def test_a_file_that_is_no_configuration_is_told(tmp_path, text, told):
    with pytest.raises(RecipeError) as raised:
        read_deepspeed_config(with_deepspeed(tmp_path / "ds.json", text), num_ranks=2)
    assert told in str(raised.value)


def test_a_missing_file_is_told(tmp_path):
    recipe = with_deepspeed(tmp_path / "ds.json", "{}")
    (tmp_path / "ds.json").unlink()
    with pytest.raises(RecipeError, match="file: got no such file"):
        read_deepspeed_config(recipe, num_ranks=2)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_plan_says_what_every_machine_types_and_executes(path, full_size):
    shipped = load_recipe(path).recipe
    num_nodes = shipped.parallel.num_nodes
    # settings that are one family's own go with no other's model: those are planned by what is known of their checkpoint
    model, *rows = full_size
    typed = [*([model] if "cogvlm2" in shipped.model.path else []), *rows, "lora.rank=16"]
    given = [*typed, "parallel.node_rank=0"] if num_nodes > 1 else typed
    found = forecast(load_recipe(path, overrides=given), max_clips=1)
    text, recipe = describe_forecast(found), found.job.recipe
    if num_nodes == 1:
        # what to type is what was typed
        assert "machine 0" not in text
        assert f"\nexecutes\n  {sys.executable} -m " in text
    else:
        for node_rank in range(num_nodes):
            words = " ".join(["cvft", "train", str(path), *typed, f"parallel.node_rank={node_rank}"])
            assert f"machine {node_rank}\n  type      {words}\n  executes  {sys.executable} -m " in text
    assert text.count("-m cvft.train.worker") == num_nodes
    assert f"batch     {recipe.train.global_batch_rows} rows per step" in text
    if recipe.parallel.strategy != "single":
        assert f" x {recipe.parallel.num_gpus * num_nodes} ranks ({recipe.parallel.strategy})" in text
    assert "OMP_NUM_THREADS=1" in text


@pytest.mark.cpu
def test_the_plan_of_two_nodes_needs_neither_weights_nor_gpus(full_size):
    words = [*full_size, "--clips", "1", "parallel.num_gpus=auto"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = cvft_ok("plan", RECIPES / "cogvlm2_video_lora_zero2_2nodes.yaml", *words, env=environment)
    assert "note      this machine has no GPU; planned for 1 of a kind that is not known" in result.stdout
    assert result.stdout.count("--nproc-per-node 1 ") == 2
    for node_rank in (0, 1):
        assert f"--nnodes 2 --node-rank {node_rank} --master-addr node0.example --master-port 29500" in result.stdout
        assert f"parallel.num_gpus=auto parallel.node_rank={node_rank}\n" in result.stdout


@pytest.mark.cpu
def test_the_slurm_script_is_sound():
    script = RECIPES / "slurm" / "train_2nodes.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "recipes/cogvlm2_video_lora_zero2_2nodes.yaml" in text
    assert "#SBATCH --signal=B:TERM@" in text


@pytest.mark.cpu
def test_the_slurm_script_starts_both_machines(tmp_path, full_size):
    script = RECIPES / "slurm" / "train_2nodes.sbatch"
    stand_ins = {
        "scontrol": "printf 'first\\nsecond\\n'",
        # as SLURM does it: the same command on each machine, with its number
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit $?; done',
        # writes down what it is called with, and says what that would start
        "cvft": f'echo "$@" >> {tmp_path}/words; shift; exec {sys.executable} -m cvft plan "$@" --clips 1',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_ID": "1",
        "MODEL": full_size[0].removeprefix("model.path="),
        "TRAIN": str(TINY_ROWS),
        "RUNS": str(tmp_path / "runs"),
    }
    result = subprocess.run(
        ["bash", script, "lora.rank=16"],
        env=environment,
        cwd=RECIPES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    called = (tmp_path / "words").read_text().splitlines()
    assert len(called) == 2
    for node_rank, line in enumerate(called):
        words = line.split()
        assert words[:2] == ["train", "recipes/cogvlm2_video_lora_zero2_2nodes.yaml"]
        assert words[-3:] == ["parallel.rendezvous=first:29500", "lora.rank=16", f"parallel.node_rank={node_rank}"]
        assert result.stdout.count(f"--nnodes 2 --node-rank {node_rank} --master-addr first --master-port 29500") == 2
    assert f"{tmp_path}/runs/cogvlm2_video_2nodes/plan.json" in result.stdout


@pytest.mark.cpu
def test_the_shell_may_not_decide_about_ranks(tmp_path, monkeypatch):
    recipe = make_project(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    result = cvft("train", recipe)
    assert result.returncode == 2
    for name in ("WORLD_SIZE", "ACCELERATE_USE_DEEPSPEED"):
        assert f"environment variable {name}: got" in result.stderr
    assert result.stderr.count("it unset: the recipe's `parallel` section decides") == 2
