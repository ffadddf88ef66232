"""The plan is a pure value: what a recipe turns into, checked without ms-swift, torch or a GPU."""

import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from cvft.data.features.key import FeatureKey
from cvft.data.groups import RowShape
from cvft.errors import RecipeError, RunError
from cvft.families.cogvlm2_video.family import ARCHITECTURE, COGVLM2_VIDEO, OFFICIAL_ARCHITECTURE
from cvft.families.cogvlm2_video.tensors import PARTS, PUBLISHED_SIZES
from cvft.families.parts import target_regex
from cvft.plan.batching import RowFacts
from cvft.plan.caching import decide_cache
from cvft.plan.environment import check_shell, find_overruled, merge_environment
from cvft.plan.job import Job, OpenModel, check_batch
from cvft.plan.machine import GpuFacts, Machine, visible_gpus
from cvft.plan.plan import Plan, compile_plan
from cvft.plan.ranks import decide_ranks
from cvft.recipe import LoadedRecipe, recipe_from_dict
from cvft.runs import RunFolder
from cvft.weights.folder import ModelFolder
from cvft.weights.hub import Source

CONFIG = {
    **PUBLISHED_SIZES,
    "vision_config": {**PUBLISHED_SIZES["vision_config"], "image_size": 224},
    "architectures": [OFFICIAL_ARCHITECTURE],
    "max_position_embeddings": 2048,
    "template_version": "base",
}
FOLDER = ModelFolder(Path("model"), CONFIG)
MODEL = OpenModel(FOLDER, Source(FOLDER.path), COGVLM2_VIDEO, shards=())
"""A model whose weights were looked at."""


Disk = namedtuple("Disk", "total used free")


def make_shapes(num_rows: int, *, rows_per_clip: int) -> list[RowShape]:
    """Rows about clips of 24 frames in the chat layout, with 91 tokens of question and 60 of answer."""
    return [RowShape((number // rows_per_clip,), 1609, 91, 60, (24,), (1608,)) for number in range(num_rows)]


ROWS = RowFacts(make_shapes(100, rows_per_clip=1), [RowShape((), 1, 20, 5)] * 10)
LEARNING = {"targets": "all-linear", "train_vision_tower": True}

PIXEL_BYTES = 13 * 24 * 448 * 448 * 3
"""Of 13 clips of frames with 1080 rows, as they are kept."""

SHARED = RowFacts(make_shapes(100, rows_per_clip=8), [], pixel_bytes=PIXEL_BYTES)


def feature_key(device: str) -> FeatureKey:
    return FeatureKey(
        sampling="chat",
        max_frames=24,
        decoder="pyav",
        decoder_version="17",
        fields={"image_size_px": 224},
        tower_sha256="0" * 64,
        dtype="BF16",
        device=device,
        attention="sdpa",
    )


def make_recipe(**sections):
    values = {"name": "x", "model": {"path": "folder/cogvlm2-video-llama3-chat"}, "data": {"train": "train.jsonl"}}
    return recipe_from_dict({**values, **sections})


class KeyedJob(Job):
    """A job whose tower needs no weights to be known by."""

    @property
    def feature_key(self) -> FeatureKey:
        return feature_key(self.ranks.device)


def make_job(*, num_gpus_present=0, memory_bytes=None, model_opened=MODEL, **sections) -> Job:
    """A job on a machine that is described, refused where a training would be; a device of None bytes is not known."""
    recipe = make_recipe(**sections)
    machine = Machine((GpuFacts("a GPU", memory_bytes or 0),) * num_gpus_present, host_bytes=memory_bytes or 0)
    ranks = decide_ranks(recipe, num_gpus_present=num_gpus_present)
    check_batch(recipe, ranks)
    return KeyedJob(
        loaded=LoadedRecipe(recipe=recipe, path=Path("x.yaml"), chain_of_files=(), overrides=()),
        run=RunFolder(recipe.run_dir.absolute()),
        model=model_opened,
        preprocessing=COGVLM2_VIDEO.preprocessing(recipe, model_opened.folder),
        ranks=ranks,
        machine=machine,
    )


def plan_of(num_gpus_present=0, rows=ROWS, memory_bytes=None, **sections) -> Plan:
    return compile_plan(make_job(num_gpus_present=num_gpus_present, memory_bytes=memory_bytes, **sections), rows)


def test_a_plan_survives_its_file():
    plan = plan_of()
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_what_ms_swift_would_derive_is_stated():
    arguments = plan_of(train={"global_batch_rows": 16, "micro_batch_rows": 2}).swift
    assert arguments["gradient_accumulation_steps"] == 1  # the trainer passes through a step by itself
    assert arguments["use_logits_to_keep"] is False
    assert arguments["fp16"] is False
    assert arguments["strict"] is True
    assert arguments["check_model"] is False
    assert arguments["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert arguments["split_dataset_ratio"] == 0.0


def test_steps_cover_every_row_of_an_epoch():
    plan = plan_of(train={"global_batch_rows": 16, "epochs": 3})
    assert (plan.worker.steps_per_epoch, plan.worker.num_steps) == (7, 21)
    assert plan_of(train={"max_steps": 5}).worker.num_steps == 5


@pytest.mark.parametrize(
    ("path", "template", "how"),
    [
        ("a/cogvlm2-video-llama3-chat", "auto", ("chat", "chat")),
        ("a/cogvlm2-video-llama3-base", "auto", ("base", "base")),
        ("a/cogvlm2-llama3-caption", "auto", ("chat", "chat")),
        ("a/cogvlm2-video-llama3-chat", "swift", ("swift", "base")),
        ("a/cogvlm2-video-llama3-chat", "vqa", ("vqa", "chat")),
    ],
)
def test_official_checkpoints_get_their_template_by_name(path, template, how):
    decided = COGVLM2_VIDEO.preprocessing(make_recipe(model={"path": path, "template": template}), FOLDER)
    assert (decided.template, decided.decode.sampling.strategy) == how
    assert decided.max_tokens == 2048
    assert decided.fields == {"image_size": 224, "num_tokens_per_frame": 66, "rope_precision": "checkpoint"}


def test_other_folders_are_believed():
    vision = {**CONFIG["vision_config"], "image_size": 56}
    config = {**CONFIG, "architectures": [ARCHITECTURE], "template_version": "chat", "vision_config": vision}
    decided = COGVLM2_VIDEO.preprocessing(make_recipe(model={"path": "tiny"}), ModelFolder(Path("m"), config))
    assert decided.template == "chat"
    assert (decided.fields["image_size"], decided.fields["num_tokens_per_frame"]) == (56, 6)


def test_the_worker_is_one_process_or_torchrun():
    assert plan_of().launch.command[:3] == (sys.executable, "-m", "cvft.train.worker")
    command = plan_of(
        num_gpus_present=4,
        parallel={"strategy": "zero2", "num_gpus": 4},
        train={"global_batch_rows": 16, "micro_batch_rows": 1},
    ).launch.command
    assert command[1:6] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")


def test_zero2_reaches_ms_swift_and_accumulation_follows_the_ranks():
    plan = plan_of(num_gpus_present=4, parallel={"strategy": "zero2", "num_gpus": 4}, train={"global_batch_rows": 16})
    assert plan.swift["deepspeed"] == "zero2"
    assert plan.worker.num_ranks == 4
    assert plan.swift["use_cpu"] is False


def test_rows_that_share_a_clip_train_together_unless_told_otherwise():
    limits = plan_of(rows=SHARED).worker.limits
    assert (limits.global_batch_rows, limits.max_rows_per_group, limits.micro_batch_tokens) == (16, 4, 1700)
    assert plan_of(rows=SHARED, train={"global_batch_rows": 64}).worker.limits.max_rows_per_group == 8
    assert plan_of(rows=SHARED, train={"global_batch_rows": 4}).worker.limits.max_rows_per_group == 1
    assert (
        plan_of(rows=SHARED, train={"group_by_clip": "on", "global_batch_rows": 4}).worker.limits.max_rows_per_group
        == 2
    )
    assert plan_of(rows=SHARED, train={"max_rows_per_group": 3}).worker.limits.max_rows_per_group == 3
    assert plan_of(rows=SHARED, train={"group_by_clip": "off"}).worker.limits.max_rows_per_group == 1
    flash = {"path": "folder", "attention": "flash_attention_2"}
    assert plan_of(rows=SHARED, model=flash).worker.limits.max_rows_per_group == 1
    assert plan_of().worker.limits.max_rows_per_group == 1


def test_clips_are_encoded_once_where_that_saves_work():
    assert plan_of(rows=SHARED).worker.features == feature_key("cpu")
    once = {"epochs": 1.0}
    assert plan_of(train=once).worker.features is None
    assert plan_of(rows=SHARED, train=once).worker.features is not None  # 8 rows of a clip, in groups of 4
    assert plan_of(rows=SHARED, train={**once, "max_rows_per_group": 8}).worker.features is None
    assert plan_of(train=once, video={"cache_features": "on"}).worker.features is not None
    assert plan_of(rows=SHARED, video={"cache_features": "off"}).worker.features is None
    assert plan_of(rows=SHARED, lora=LEARNING).worker.features is None
    assert plan_of(rows=SHARED, lora={**LEARNING, "train_vision_tower": False, "train_projector": True}).worker.features
    assert plan_of(rows=RowFacts([RowShape((), 1, 9)] * 8, [])).worker.features is None


@pytest.fixture
def decide(monkeypatch, tmp_path):
    """Decides what is kept of clips of which features take 13 times 5,505,024 bytes, on a disk with room."""

    def decide_with(*, free=10**12, pixel_bytes=PIXEL_BYTES, lora=None, **video):
        monkeypatch.setattr("cvft.plan.job.shutil.disk_usage", lambda path: Disk(0, 0, free))
        job = make_job(video=video, output={"features": str(tmp_path)}, lora=lora or {})
        rows = replace(SHARED, pixel_bytes=pixel_bytes)
        limits = compile_plan(job, rows).worker.limits
        return decide_cache(job, rows=rows, limits=limits, num_epochs=1.0)

    return decide_with


def test_features_are_cached_as_far_as_they_fit(decide, tmp_path):
    size_gb = 13 * 5_505_024 / 1e9
    roomy = decide()
    assert (roomy.kind, roomy.num_bytes) == ("features", 13 * 5_505_024)
    assert roomy.why.startswith("they take 0.0716 GB, of half of what the disk of")
    assert roomy.why.endswith("; pixels would take 0.188 GB")
    assert decide(cache_limit_gb=size_gb + 1e-9).kind == "features"
    allowed = decide(cache_limit_gb=size_gb - 1e-9)
    assert (allowed.kind, allowed.num_bytes) == (None, 0)
    assert allowed.why == (
        "features would take 0.0716 GB, more than the 0.0715653 GB of `video.cache_limit_gb`; "
        "pixels would take 0.188 GB, more than that"
    )
    full = decide(free=2 * 13 * 5_505_024 - 1)
    assert full.kind is None
    assert f"more than half of what the disk of {tmp_path} has room for, 0.0716 GB" in full.why
    assert decide(free=2 * 13 * 5_505_024).kind == "features"
    # what is there already counts as room: a training that goes on finds as much as one that begins
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "features").write_bytes(bytes(1))
    assert decide(free=2 * 13 * 5_505_024 - 1).kind == "features"
    with pytest.raises(
        RecipeError, match=r"video.cache_limit_gb: got `0.05`, need at least 0.0716 GB, which the features of 13"
    ):
        decide(cache_features="on", cache_limit_gb=0.05)
    with pytest.raises(RecipeError, match=r"video.cache_limit_gb: got `5.0` with `video.cache_features` off"):
        decide(cache_features="off", cache_limit_gb=5)


def test_pixels_are_kept_where_features_cannot_be_or_do_not_fit(decide):
    learns = decide(lora=LEARNING, cache_limit_gb=1)
    assert (learns.kind, learns.num_bytes) == ("pixels", PIXEL_BYTES)
    assert learns.why == (
        "no features: `lora.train_vision_tower` says so, or changes them; "
        "pixels take 0.188 GB, of the 1 GB of `video.cache_limit_gb`"
    )
    assert decide(lora=LEARNING, cache_limit_gb=0.1).kind is None
    small = decide(pixel_bytes=5 * 10**7, cache_limit_gb=0.06)
    assert (small.kind, small.num_bytes) == ("pixels", 5 * 10**7)
    assert small.why.endswith("; pixels take 0.05 GB, of that")
    asked = decide(cache_features="pixels")
    assert (asked.kind, asked.why) == ("pixels", "`video.cache_features` is pixels: they take 0.188 GB")
    with pytest.raises(RecipeError, match=r"cache_limit_gb: got `0.1`, need at least 0.188 GB, which the pixels of 13"):
        decide(cache_features="pixels", cache_limit_gb=0.1)


def test_the_plan_says_which_pixels_are_kept_and_leaves_the_tower_in():
    worker = plan_of(rows=SHARED, lora=LEARNING).worker
    assert (worker.features, worker.loading.with_tower) == (None, True)
    assert worker.pixels == worker.cache_key == make_job().pixel_key
    assert worker.pixels.kind == "pixels"
    once = {"epochs": 1.0, "max_rows_per_group": 8}
    assert plan_of(rows=SHARED, lora=LEARNING, train=once).worker.cache_key is None  # each clip is decoded once
    assert plan_of(rows=SHARED, lora=LEARNING, video={"cache_features": "off"}).worker.cache_key is None
    assert plan_of(rows=SHARED).worker.pixels is None
    plan = plan_of(rows=SHARED, video={"cache_features": "pixels"}, train=once)
    assert plan.worker.pixels is not None
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_without_weights_says_that_features_would_be_cached():
    plan = compile_plan(make_job(model_opened=replace(MODEL, shards=None)), SHARED)
    assert plan.worker.features == "planned"
    assert plan.worker.cache_key is None
    assert Plan.from_json(plan.to_json()) == plan
    assert plan_of(rows=SHARED).worker.cache_key == feature_key("cpu")


def test_activations_are_recomputed_only_where_they_would_not_fit():
    def recomputes(**options):
        return plan_of(num_gpus_present=1, rows=SHARED, **options).swift["gradient_checkpointing"]

    assert recomputes() is True  # nobody knows the memory
    assert recomputes(memory_bytes=24 * 2**30) is True
    assert recomputes(memory_bytes=80 * 2**30) is False
    assert recomputes(memory_bytes=80 * 2**30, train={"gradient_checkpointing": True}) is True
    assert recomputes(memory_bytes=24 * 2**30, train={"gradient_checkpointing": False}) is False
    assert recomputes(memory_bytes=80 * 2**30, train={"global_batch_rows": 64, "micro_batch_rows": 64}) is True


@pytest.mark.parametrize("settings", [{"group_by_clip": "on"}, {"max_rows_per_group": 4}])
def test_groups_of_rows_that_share_nothing_are_refused(settings):
    with pytest.raises(RecipeError, match=r"every clip has one row\n    hint: remove `train\."):
        plan_of(train=settings)


def test_more_gpus_than_there_are_is_an_error():
    with pytest.raises(RecipeError) as raised:
        plan_of(num_gpus_present=2, parallel={"strategy": "ddp", "num_gpus": 3}, train={"global_batch_rows": 12})
    assert "parallel.num_gpus: got `3`, need at most the 2 GPUs present" in str(raised.value)


def test_warm_up_of_a_constant_schedule_is_not_lost():
    assert plan_of(optim={"schedule": "constant", "warmup_ratio": 0.1}).swift["lr_scheduler_type"] == (
        "constant_with_warmup"
    )


@pytest.mark.parametrize(
    ("targets", "expression"),
    [
        ("qkv", r"^(model\.layers\.\d+\.(self_attn\.language_expert_query_key_value))$"),
        (
            ["gate_proj", "up_proj"],
            r"^(model\.layers\.\d+\.(mlp\.language_mlp\.gate_proj|mlp\.language_mlp\.up_proj))$",
        ),
    ],
)
def test_targets_become_one_expression(targets, expression):
    assert target_regex(PARTS, targets) == expression


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(RecipeError) as raised:
        target_regex(PARTS, ["gate_porj"])
    assert "lora.targets: got `gate_porj`, need linear layers of a decoder block" in str(raised.value)
    assert "hint: `gate_porj` is `gate_proj` here" in str(raised.value)


def test_the_shell_is_overruled_and_told_so():
    planned = {"A": "1", "OMP_NUM_THREADS": "2", "MODELSCOPE_CACHE": "run", "PYTORCH_ALLOC_CONF": "a"}
    shell = {"A": "1", "B": "2", "OMP_NUM_THREADS": "8", "MODELSCOPE_CACHE": "home", "PYTORCH_ALLOC_CONF": "b"}
    of_cluster = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "job-0", "PMI_RANK": "0", "LOCAL_RANK": "-1"}
    merged = merge_environment(planned, shell | of_cluster)
    assert merged == {**planned, "B": "2", "PYTORCH_ALLOC_CONF": "b"}
    check_shell(shell | of_cluster)
    assert find_overruled(planned, shell | of_cluster) == [
        "environment variable LOCAL_RANK=-1 is not passed on: the recipe's `parallel` section decides",
        "environment variable MASTER_ADDR=job-0 is not passed on: the recipe's `parallel` section decides",
        "environment variable OMP_NUM_THREADS=8 does not count: the training has 2, which is parallel.num_threads",
        "environment variable RANK=0 is not passed on: the recipe's `parallel` section decides",
        "environment variable WORLD_SIZE=1 is not passed on: the recipe's `parallel` section decides",
    ]
    assert find_overruled(planned, planned) == []


def test_a_shell_of_several_processes_is_refused():
    with pytest.raises(RunError) as raised:
        check_shell({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "fp16", "A": "9"})
    assert str(raised.value) == (
        "the shell has 3 problems\n"
        "  environment variable ACCELERATE_MIXED_PRECISION: got `fp16`, need it unset: the recipe's `parallel` section decides\n"
        "    hint: unset ACCELERATE_MIXED_PRECISION\n"
        "  environment variable RANK: got `3`, need `0`, or it unset: the recipe's `parallel` section decides\n"
        "    hint: start cvft once on each machine, not once per process, and unset RANK\n"
        "  environment variable WORLD_SIZE: got `4`, need `1`, or it unset: the recipe's `parallel` section decides\n"
        "    hint: start cvft once on each machine, not once per process, and unset WORLD_SIZE"
    )


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["a", "b", "c"]),
        ("", []),
        ("-1", []),
        ("2", ["c"]),
        ("1, 0", ["b", "a"]),
        ("0,7,1", ["a"]),
        ("GPU-8f6d,GPU-11aa", ["a", "a"]),
    ],
)
def test_gpus_that_the_shell_hides_are_not_counted(chosen, names):
    gpus = [GpuFacts(name, 1) for name in "abc"]
    assert [gpu.name for gpu in visible_gpus(gpus, chosen)] == names
    assert visible_gpus([], chosen) == []


def test_an_embedding_stays_on_the_host_of_one_gpu_only():
    hosted = {"path": "m", "embeddings_on_cpu": True}
    assert plan_of(num_gpus_present=1, model=hosted).worker.loading.embeddings_on_cpu
    with pytest.raises(RecipeError, match=r"model.embeddings_on_cpu: got `true` on a machine without a GPU"):
        plan_of(num_gpus_present=0, model=hosted)
    for parallel, got in (
        ({"device": "cpu"}, "`parallel.device` cpu"),
        ({"strategy": "ddp", "num_gpus": 2}, "`parallel.strategy` ddp"),
    ):
        with pytest.raises(RecipeError, match=f"model.embeddings_on_cpu: got `true` with {got}"):
            plan_of(num_gpus_present=2, model=hosted, parallel=parallel)


@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        (["q_proj", "v_proj"], "`q_proj` and `v_proj` are `qkv` here; write `lora.targets: qkv`"),
        (["q_proj", "o_proj"], "`q_proj` is `qkv` here; `o_proj` is `language_expert_dense` here"),
        (["query_key_value"], "`query_key_value` is `qkv` here; write `lora.targets: qkv`"),
        (["dense"], "`dense` is `language_expert_dense` here"),
        (["model.layers.0.mlp.down"], "`model.layers.0.mlp.down` is `down_proj` here"),
        (["lm_head"], ""),
        (["(a+)+$"], ""),
    ],
)
def test_layers_of_other_models_are_known_by_their_names_here(targets, hint):
    with pytest.raises(RecipeError) as raised:
        target_regex(PARTS, targets)
    (problem,) = raised.value.problems
    assert problem.where == "lora.targets"
    assert problem.got == ", ".join(f"`{name}`" for name in targets)
    assert problem.need.startswith("linear layers of a decoder block: `language_expert_query_key_value`, ")
    assert problem.hint == hint


def test_names_that_are_written_here_are_those_of_the_family():
    assert set(PARTS.aliases.values()) <= {path.rpartition(".")[2] for path in PARTS.linear}
