"""Training through ms-swift, as a user starts it: what is trained, what stays, and that it repeats and resumes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cvft.shipped import SHIPPED
from tests.project import ROWS, cvft, cvft_ok, files_under, make_project, with_real_clips, write_jsonl
from tests.real_clips import real_clip


def adapter_of(recipe: Path, name: str = "small") -> dict[str, torch.Tensor]:
    return load_file(recipe.parent / "runs" / name / "adapter" / "adapter_model.safetensors")


def losses_of(recipe: Path, name: str = "small") -> list[float]:
    lines = (recipe.parent / "runs" / name / "train" / "logging.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A recipe whose training ran from start to end in one go."""
    recipe = make_project(tmp_path_factory.mktemp("straight"))
    cvft_ok("train", recipe)
    return recipe


def test_the_run_folder_says_what_was_done(straight):
    run = straight.parent / "runs" / "small"
    found = set(files_under(run))
    assert {
        "recipe.yaml",
        "plan.json",
        "manifest.json",
        "data/train.jsonl",
        "data/val.jsonl",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/cvft_contract.json",
        "adapter/recipe.yaml",
        "train/logging.jsonl",
        "train/worker.log",
    } <= found
    assert any(name.startswith("train/runs/events.out.tfevents") for name in found)
    assert not [name for name in found if name.endswith((".partial", ".tmp"))]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["rows"]["num_train"] == 6
    assert manifest["packages"]["ms-swift"].startswith("4.6")
    contract = json.loads((run / "adapter" / "cvft_contract.json").read_text())
    assert (contract["template"], contract["sampling"], contract["image_size"]) == ("chat", "chat", 56)


def test_qkv_trains_exactly_the_query_key_value_layers(straight):
    names = {name.rpartition(".lora_")[0] for name in adapter_of(straight)}
    assert names == {f"base_model.model.model.layers.{i}.self_attn.language_expert_query_key_value" for i in range(5)}


CLUSTER = {
    **{"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"},
    **{"OMP_NUM_THREADS": "7", "TOKENIZERS_PARALLELISM": "true", "PYTHONUNBUFFERED": "0", "HF_HUB_OFFLINE": "0"},
}
"""What a pod or a job sets for one process, and what people export for other programs."""


def test_training_twice_gives_bit_identical_adapters_whatever_harmless_things_the_shell_says(straight, tmp_path):
    again = make_project(tmp_path)
    result = cvft_ok("train", again, env={**os.environ, **CLUSTER})
    for name in CLUSTER:
        assert result.stderr.count(f"environment variable {name}=") == 1, name
    first, second = adapter_of(straight), adapter_of(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses_of(straight) == losses_of(again)


def test_a_finished_run_is_not_trained_again(straight):
    before = files_under(straight.parent / "runs" / "small" / "train")
    result = cvft_ok("train", straight)
    assert "trained before" in result.stderr
    assert files_under(straight.parent / "runs" / "small" / "train") == before


def test_a_folder_of_another_recipe_is_refused(straight):
    result = cvft("train", straight, "optim.learning_rate=0.5")
    assert result.returncode == 2
    assert "optim.learning_rate: got `0.5`, need `0.001`, as this folder was trained with" in result.stderr
    assert "hint: give this run a name of its own (name=...); with train.resume_from=" in result.stderr


def test_all_linear_with_vision_tower_and_projector_trains_every_part(tmp_path):
    recipe = make_project(
        tmp_path,
        lora={"targets": "all-linear", "train_vision_tower": True, "train_projector": True, "rank": 2, "dropout": 0.0},
        train={"gradient_checkpointing": True, "max_steps": 2, "save_steps": 2, "num_workers": 1},
    )
    cvft_ok("train", recipe)
    weights = adapter_of(recipe)
    modules = {name.rpartition(".lora_")[0].removeprefix("base_model.model.model.") for name in weights}
    assert len([name for name in modules if name.startswith("layers.")]) == 5 * 5
    assert len([name for name in modules if name.startswith("vision.transformer.layers.")]) == 3 * 4
    assert len([name for name in modules if name.startswith("vision.linear_proj.")]) == 4
    # B starts at zero: a layer whose B is still zero got no gradient
    assert not [name for name, weight in weights.items() if ".lora_B." in name and not weight.any()]


def test_bf16_trains_and_the_base_file_is_untouched(tmp_path):
    base = SHIPPED["tiny"].folder / "model.safetensors"
    before = base.read_bytes()
    recipe = make_project(tmp_path, model={"dtype": "bf16"}, train={"max_steps": 2, "eval_answers": 2})
    cvft_ok("train", recipe)
    assert base.read_bytes() == before
    said = (tmp_path / "runs" / "small" / "train" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in said] == [1, 2]  # of three, spread over the file
    arguments = json.loads((tmp_path / "runs" / "small" / "train" / "args.json").read_text())
    assert (arguments["bf16"], arguments["fp16"]) == (True, False)
    assert all(weight.isfinite().all() for weight in adapter_of(recipe).values())


@pytest.fixture(scope="module")
def unusual(tmp_path_factory) -> Path:
    """A run without a val file, with other forms of adapter."""
    folder = tmp_path_factory.mktemp("unusual")
    recipe = make_project(
        folder,
        data={"val": None, "val_fraction": 0.5},
        lora={"dora": True, "rslora": True},
        train={"max_steps": 1},
    )
    cvft_ok("train", recipe)
    return recipe


def test_dora_and_rslora_reach_the_adapter(unusual):
    run = unusual.parent / "runs" / "small"
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"], config["r"], config["lora_alpha"]) == (True, True, 4, 8)
    assert any("lora_magnitude_vector" in name for name in adapter_of(unusual))


def test_without_a_val_file_clips_are_split_and_never_shared(unusual):
    data = unusual.parent / "runs" / "small" / "data"
    clips = [
        {row["videos"][0] for row in map(json.loads, (data / name).read_text().splitlines()) if row["videos"]}
        for name in ("train.jsonl", "val.jsonl")
    ]
    assert not clips[0] & clips[1]
    assert sum(len((data / name).read_text().splitlines()) for name in ("train.jsonl", "val.jsonl")) == 6


def test_the_published_examples_train_as_they_stand_in_an_array_too(tmp_path):
    rows = [
        {"query": "55555", "response": "66666", "videos": ["video_path"]},
        {"query": "eeeee", "response": "fffff", "history": [], "videos": ["video_path"]},
        {
            "query": "EEEEE",
            "response": "FFFFF",
            "history": [["AAAAA", "BBBBB"], ["CCCCC", "DDDDD"]],
            "videos": ["video_path"],
        },
    ]
    recipe = make_project(
        tmp_path, rows=[], train={"global_batch_rows": 16, "micro_batch_rows": 1, "max_steps": 2, "save_steps": 1}
    )
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "video_path").symlink_to(real_clip("carphone_distorted.mp4"))
    cvft_ok("train", recipe, f"data.train={tmp_path / 'train.json'}")
    assert len(losses_of(recipe)) == 2


def test_code_in_a_model_folder_never_runs(tmp_path):
    folder = tmp_path / "official"
    shutil.copytree(SHIPPED["tiny"].folder, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    config |= {
        "architectures": ["CogVLMVideoForCausalLM"],
        "auto_map": {
            "AutoConfig": "planted.PlantedConfig",
            "AutoModelForCausalLM": "planted.PlantedModel",
            "AutoTokenizer": ["planted.PlantedTokenizer", None],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "planted.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\n")
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\n")
    recipe = make_project(tmp_path, model={"path": str(folder)}, train={"max_steps": 1})
    cvft_ok("run", recipe)
    assert not (tmp_path / "it_ran").exists()


def test_a_failing_worker_is_told_with_the_end_of_its_log(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'cvft.train.worker' in sys.orig_argv:\n    os.environ['WORLD_SIZE'] = '3'\n"
    )
    recipe = make_project(tmp_path / "job", train={"max_steps": 1})
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    result = cvft("train", recipe, env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 2
    assert "worker.log): got exit code 2, need exit code 0" in result.stderr
    assert "number of ranks: got `3`, need `1`" in result.stderr
    assert not (tmp_path / "job" / "runs" / "small" / "adapter").exists()


def test_a_damaged_model_is_told_before_anything_starts(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED["tiny"].folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = cvft("train", make_project(tmp_path, model={"path": str(folder)}))
    assert result.returncode == 2
    assert "weights: got `model.norm.weight` missing, need exactly the published tensors" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_bad_clips_are_set_aside_when_asked_and_never_replaced(tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video")
    rows = [*with_real_clips(ROWS), {"query": "q", "response": "r", "videos": ["notes.mp4"]}]
    recipe = make_project(tmp_path, rows=rows, train={"max_steps": 1})
    refused = cvft("train", recipe)
    assert refused.returncode == 2
    assert "train.jsonl:7 `videos`" in refused.stderr
    assert files_under(tmp_path / "runs") == []
    cvft_ok("train", recipe, "data.on_bad_clip=quarantine")
    run = tmp_path / "runs" / "small"
    assert sorted(path.name for path in run.parent.iterdir()) == [".clips", ".features", "small"]
    (line,) = (run / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 7
    assert len((run / "data" / "train.jsonl").read_text().splitlines()) == 6
    assert json.loads((run / "manifest.json").read_text())["rows"]["num_quarantined"] == 1


def test_names_in_any_script_train_and_are_found_again_from_any_folder(tmp_path):
    project, elsewhere = tmp_path / "项目", tmp_path / "elsewhere"
    elsewhere.mkdir()
    recipe = make_project(project, rows=[], train={"max_steps": 1})
    clip = project / "片段" / "红 色.mp4"
    clip.parent.mkdir()
    shutil.copy(real_clip("bikes.mp4"), clip)
    write_jsonl(project / "train.jsonl", [{"query": "什么颜色？", "response": "红色", "videos": ["片段/红 色.mp4"]}])
    settings = yaml.safe_load(recipe.read_text()) | {"output": {"root": "runs"}}
    recipe = recipe.rename(project / "我的配方.yaml")
    recipe.write_text(yaml.safe_dump(settings, allow_unicode=True))
    cvft_ok("train", recipe, cwd=project)
    run = project / "runs" / "我的配方"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    again = cvft_ok("train", recipe, cwd=elsewhere)
    assert again.stdout.strip() == str(run / "adapter")
    assert f"{run} was made by this recipe" in again.stderr
    for name in (run, run / "recipe.yaml"):
        assert cvft_ok("train", name, cwd=elsewhere).stdout.strip() == str(run / "adapter")
    assert files_under(elsewhere) == []


def test_every_problem_of_a_file_is_told_at_once_and_nothing_is_written(tmp_path):
    clip = str(real_clip("bikes.mp4"))
    (tmp_path / "empty.mp4").touch()
    bad = [
        {"query": "q", "response": None, "videos": [clip]},
        {"query": "q", "response": "r", "history": [["a", None]], "videos": [clip]},
        {"query": "q", "response": "r", "videos": [clip, 3]},
        {"query": "q", "response": "r", "videos": ["missing.mp4"]},
        {"query": "q", "response": "r", "videos": ["empty.mp4"]},
        {"query": "q", "respones": "r", "videos": [clip]},
        {"query": ["q"], "response": "r", "videos": [clip]},
    ]
    recipe = make_project(tmp_path, rows=bad)
    before = files_under(tmp_path)
    result = cvft("run", recipe)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for number in range(1, 8):
        assert f"train.jsonl:{number}" in result.stderr
    assert "did you mean `response`" in result.stderr
    assert files_under(tmp_path) == before


def test_a_row_longer_than_allowed_is_an_error_and_never_cut(tmp_path):
    recipe = make_project(tmp_path, data={"max_tokens": 40})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "tokens, need at most 40" in result.stderr
    assert files_under(tmp_path / "runs") == []


def test_history_under_the_base_template_is_an_error_for_it_would_be_lost(tmp_path):
    recipe = make_project(tmp_path, model={"template": "base"})
    result = cvft("train", recipe)
    assert result.returncode == 2
    assert "train.jsonl:3 `history`: got 1 turns, need none: template `base` has no place for it" in result.stderr


def test_rows_whose_answer_follows_the_clip_at_once_train_and_answer_apart(tmp_path):
    """Template `base` and an empty question: captions. Other rows of the same clip still train together."""
    clips = ("bikes.mp4", "carphone_pristine.mp4")
    captions = [{"query": "", "response": text, "videos": [clip]} for clip in clips for text in ("a", "b")]
    questions = [{"query": f"What {number}?", "response": "c", "videos": [clips[0]]} for number in range(2)]
    rows = with_real_clips([*captions, *questions, {"query": "", "response": "alone"}])
    recipe = make_project(
        tmp_path,
        rows=rows,
        val_rows=rows[:3],
        model={"template": "base"},
        train={"max_steps": 2, "global_batch_rows": 8, "micro_batch_rows": 4, "group_by_clip": "on"},
    )
    result = cvft_ok("run", recipe)
    assert "note      8 rows have no text before their answer: each of them trains and answers apart" in result.stderr
    run = recipe.parent / "runs" / "small"
    (group,) = {json.loads((run / "plan.json").read_text())["worker"]["limits"]["max_rows_per_group"]}
    assert group == 2
    said = [
        json.loads(line)["prediction"]
        for line in (run / "eval" / "merged" / "predictions.jsonl").read_text().splitlines()
    ]
    video = rows[0]["videos"][0]
    alone = cvft_ok("infer", "--model", run, "--video", video, "--query", "", "--max-new-tokens", 8).stdout.strip()
    assert said[0] == said[1] == alone
