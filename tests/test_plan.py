"""The plan is a pure value: what a recipe turns into, checked without ms-swift, torch or a GPU."""

import sys
from pathlib import Path

import pytest

from cvft.data.features.key import FeatureKey
from cvft.data.groups import RowShape
from cvft.errors import RecipeError, RunError
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.targets import target_regex
from cvft.plan.batching import ModelFacts, RowFacts, decide_feeding
from cvft.plan.machine import GpuFacts, visible_gpus
from cvft.plan.plan import Plan, compile_plan
from cvft.recipe import recipe_from_dict
from cvft.train.launch import merge_environment

MODEL = ModelFacts(
    Path("model"),
    template_version="base",
    is_official=True,
    max_tokens=2048,
    num_tokens_per_frame=66,
    image_size=224,
    architecture=Architecture(),
)


def make_shapes(num_rows: int, *, rows_per_clip: int) -> list[RowShape]:
    """Rows about clips of 24 frames in the chat layout, with 91 tokens of question and 60 of answer."""
    return [RowShape(number // rows_per_clip, 1609, 91, 60, 24) for number in range(num_rows)]


ROWS = RowFacts(make_shapes(100, rows_per_clip=1), [RowShape(None, 1, 20, 5)] * 10)
SHARED = RowFacts(make_shapes(100, rows_per_clip=8), [])


def feature_key(device: str) -> FeatureKey:
    return FeatureKey(
        sampling="chat",
        max_frames=24,
        decoder="pyav",
        decoder_version="17",
        image_size_px=224,
        tower_sha256="0" * 64,
        dtype="BF16",
        device=device,
        attention="sdpa",
    )


def make_recipe(**sections):
    values = {"name": "x", "model": {"path": "folder/cogvlm2-video-llama3-chat"}, "data": {"train": "train.jsonl"}}
    return recipe_from_dict({**values, **sections})


def plan_of(num_gpus_present=0, rows=ROWS, memory_bytes=None, **sections) -> Plan:
    return compile_plan(
        make_recipe(**sections),
        model=MODEL,
        rows=rows,
        num_gpus_present=num_gpus_present,
        feature_key=feature_key,
        memory_bytes=memory_bytes,
    )


def test_a_plan_survives_its_file():
    plan = plan_of()
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_what_ms_swift_would_derive_is_stated():
    arguments = plan_of(train={"global_batch_rows": 16, "micro_batch_rows": 2}).swift_arguments
    assert arguments["gradient_accumulation_steps"] == 1  # the trainer passes through a step by itself
    assert arguments["use_logits_to_keep"] is False
    assert arguments["fp16"] is False
    assert arguments["strict"] is True
    assert arguments["check_model"] is False
    assert arguments["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert arguments["split_dataset_ratio"] == 0.0


def test_steps_cover_every_row_of_an_epoch():
    plan = plan_of(train={"global_batch_rows": 16, "epochs": 3})
    assert (plan.steps_per_epoch, plan.num_steps) == (7, 21)
    assert plan_of(train={"max_steps": 5}).num_steps == 5


@pytest.mark.parametrize(
    ("path", "template", "feeding"),
    [
        ("a/cogvlm2-video-llama3-chat", "auto", ("chat", "chat")),
        ("a/cogvlm2-video-llama3-base", "auto", ("base", "base")),
        ("a/cogvlm2-llama3-caption", "auto", ("chat", "chat")),
        ("a/cogvlm2-video-llama3-chat", "swift", ("swift", "base")),
        ("a/cogvlm2-video-llama3-chat", "vqa", ("vqa", "chat")),
    ],
)
def test_official_checkpoints_get_their_template_by_name(path, template, feeding):
    decided = decide_feeding(make_recipe(model={"path": path, "template": template}), MODEL)
    assert (decided.template, decided.sampling) == feeding


def test_other_folders_are_believed():
    model = ModelFacts(Path("m"), "chat", False, 2048, 6, 56, Architecture())
    assert decide_feeding(make_recipe(model={"path": "tiny"}), model).template == "chat"


def test_the_worker_is_one_process_or_torchrun():
    assert plan_of().command[:3] == (sys.executable, "-m", "cvft.train.worker")
    command = plan_of(
        num_gpus_present=4,
        parallel={"strategy": "zero2", "num_gpus": 4},
        train={"global_batch_rows": 16, "micro_batch_rows": 1},
    ).command
    assert command[1:6] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")


def test_zero2_reaches_ms_swift_and_accumulation_follows_the_ranks():
    plan = plan_of(num_gpus_present=4, parallel={"strategy": "zero2", "num_gpus": 4}, train={"global_batch_rows": 16})
    assert plan.swift_arguments["deepspeed"] == "zero2"
    assert plan.num_ranks == 4
    assert plan.swift_arguments["use_cpu"] is False


def test_rows_that_share_a_clip_train_together_unless_told_otherwise():
    limits = plan_of(rows=SHARED).limits
    assert (limits.global_batch_rows, limits.max_rows_per_group, limits.micro_batch_tokens) == (16, 4, 1700)
    assert plan_of(rows=SHARED, train={"global_batch_rows": 64}).limits.max_rows_per_group == 8
    assert plan_of(rows=SHARED, train={"global_batch_rows": 4}).limits.max_rows_per_group == 1
    assert plan_of(rows=SHARED, train={"group_by_clip": "on", "global_batch_rows": 4}).limits.max_rows_per_group == 2
    assert plan_of(rows=SHARED, train={"max_rows_per_group": 3}).limits.max_rows_per_group == 3
    assert plan_of(rows=SHARED, train={"group_by_clip": "off"}).limits.max_rows_per_group == 1
    flash = {"path": "folder", "attention": "flash_attention_2"}
    assert plan_of(rows=SHARED, model=flash).limits.max_rows_per_group == 1
    assert plan_of().limits.max_rows_per_group == 1


def test_clips_are_encoded_once_where_that_saves_work():
    assert plan_of(rows=SHARED).features == feature_key("cpu")
    once = {"epochs": 1.0}
    assert plan_of(train=once).features is None
    assert plan_of(rows=SHARED, train=once).features is not None  # 8 rows of a clip, in groups of 4
    assert plan_of(rows=SHARED, train={**once, "max_rows_per_group": 8}).features is None
    assert plan_of(train=once, video={"cache_features": "on"}).features is not None
    assert plan_of(rows=SHARED, video={"cache_features": "off"}).features is None
    learning = {"targets": "all-linear", "train_vision_tower": True}
    assert plan_of(rows=SHARED, lora=learning).features is None
    assert plan_of(rows=SHARED, lora={**learning, "train_vision_tower": False, "train_projector": True}).features
    assert plan_of(rows=RowFacts([RowShape(None, 1, 9)] * 8, [])).features is None


def test_activations_are_computed_again_only_where_they_would_not_fit():
    def recomputes(**options):
        return plan_of(rows=SHARED, **options).swift_arguments["gradient_checkpointing"]

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
    assert plan_of(optim={"schedule": "constant", "warmup_ratio": 0.1}).swift_arguments["lr_scheduler_type"] == (
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
    assert target_regex(targets) == expression


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(RecipeError) as raised:
        target_regex(["gate_porj"])
    assert "lora.targets: got `gate_porj`, need linear layers of a decoder block" in str(raised.value)
    assert "hint: did you mean `gate_proj` or `up_proj`?" in str(raised.value)


def test_the_shell_may_not_contradict_the_plan():
    assert merge_environment({"A": "1"}, {"A": "1", "B": "2"}) == {"A": "1", "B": "2"}
    assert merge_environment({"MODELSCOPE_CACHE": "run"}, {"MODELSCOPE_CACHE": "home"}) == {"MODELSCOPE_CACHE": "run"}
    assert merge_environment({"PYTORCH_ALLOC_CONF": "a"}, {"PYTORCH_ALLOC_CONF": "b"}) == {"PYTORCH_ALLOC_CONF": "b"}
    with pytest.raises(RunError) as raised:
        merge_environment({"A": "1"}, {"A": "2"})
    assert (
        str(raised.value) == "the shell has 1 problem\n  environment variable A: got `2`, need `1`\n    hint: unset A"
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
    assert plan_of(num_gpus_present=1, model=hosted).embeddings_on_cpu
    with pytest.raises(RecipeError, match=r"model.embeddings_on_cpu: got `true` on a machine without a GPU"):
        plan_of(num_gpus_present=0, model=hosted)
    for parallel, got in (
        ({"device": "cpu"}, "`parallel.device` cpu"),
        ({"strategy": "ddp", "num_gpus": 2}, "`parallel.strategy` ddp"),
    ):
        with pytest.raises(RecipeError, match=f"model.embeddings_on_cpu: got `true` with {got}"):
            plan_of(num_gpus_present=2, model=hosted, parallel=parallel)
