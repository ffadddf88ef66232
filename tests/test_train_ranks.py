"""Two ranks over gloo against one process at the same global batch: the same rows, losses and adapters."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from cvft.clips.source import DecodedClips
from cvft.data.groups import RowShape, make_steps
from cvft.data.video.loader import DecodeSettings
from cvft.families.cogvlm2_video.layout import time_indices
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.runtime import RowEncoder
from cvft.recipe import load_recipe
from tests.project import cvft, cvft_ok, make_project
from tests.real_clips import real_clip
from tests.tiny import TINY, tiny_processor

SHAPES = Path(__file__).parent.parent / "datasets" / "tiny_shapes"
GLOBAL_BATCH = 4
TRAIN = {"max_steps": None, "epochs": 5, "global_batch_rows": GLOBAL_BATCH, "micro_batch_rows": 1, "save_steps": 10}
TRAIN |= {"eval_answers": 3}
TOLERANCE = 1e-5


def mixed_rows() -> list[dict]:
    """Thirteen rows, which 4 does not divide: clips of other lengths, long and short answers, rows without a clip."""
    shapes = [json.loads(line) for line in (SHAPES / "train.jsonl").read_text().splitlines()]
    by_length = sorted(shapes, key=lambda row: len(row["response"]))
    rows = [*by_length[:4], *by_length[-4:], *shapes[:2]]
    rows = [{**row, "videos": [str(SHAPES / row["videos"][0])]} for row in rows]
    real = {"query": "What is shown ?", "response": "red", "videos": [str(real_clip("bikes.mp4"))]}
    return [
        *rows,
        {"query": "Say yes .", "response": "yes"},
        real,
        {"query": "Say it .", "response": "red circle blue"},
    ]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    rows = mixed_rows()
    assert len(rows) == 13
    return make_project(
        tmp_path_factory.mktemp("ranks"), rows=rows, val_rows=rows[3:8], lora={"dropout": 0.0}, train=TRAIN
    )


def run_folder(recipe: Path, name: str) -> Path:
    return recipe.parent / "runs" / name


def logged(recipe: Path, name: str, key: str) -> list[float]:
    lines = (run_folder(recipe, name) / "train" / "logging.jsonl").read_text().splitlines()
    return [record[key] for record in map(json.loads, lines) if key in record]


def adapter_of(recipe: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run_folder(recipe, name) / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def one_process(recipe) -> str:
    cvft_ok("train", recipe, "name=one")
    assert len(logged(recipe, "one", "loss")) == 20
    return "one"


def assert_same_training(recipe: Path, name: str, other: str, *, tolerance: float = TOLERANCE) -> None:
    for key in ("loss", "eval_loss"):
        first, second = logged(recipe, name, key), logged(recipe, other, key)
        assert len(first) == len(second) > 0
        assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= tolerance, key
    # ranks share the val rows out that are answered
    files = [run_folder(recipe, each) / "train" / "answers.jsonl" for each in (name, other)]
    first, second = (file.read_text() if file.is_file() else "" for file in files)
    assert first == second
    asks = load_recipe(run_folder(recipe, name) / "recipe.yaml").recipe.train.eval_answers or 0
    assert len(first.splitlines()) == len(logged(recipe, name, "eval_loss")) * asks
    first, second = adapter_of(recipe, name), adapter_of(recipe, other)
    assert first.keys() == second.keys()
    assert max(float((first[key] - second[key]).abs().max()) for key in first) <= tolerance
    # and it has learnt something: B starts at zero
    assert all(weight.abs().max() > 10 * TOLERANCE for key, weight in first.items() if "lora_B" in key)


@pytest.mark.parametrize(
    "settings",
    [
        # two machines train so below
        pytest.param(("parallel.strategy=ddp", "train.micro_batch_rows=1"), marks=pytest.mark.long),
        ("parallel.strategy=zero2", "train.micro_batch_rows=2"),
        pytest.param(("parallel.strategy=zero2", "train.micro_batch_rows=1"), marks=pytest.mark.long),
    ],
    ids=["ddp_accumulating", "zero2", "zero2_accumulating"],
)
def test_two_ranks_train_like_one_process(recipe, one_process, settings, request):
    name = request.node.callspec.id
    result = cvft_ok("train", recipe, f"name={name}", "parallel.num_gpus=2", *settings)
    assert "x 2 ranks" in result.stderr
    assert_same_training(recipe, name, one_process)
    if "zero2" in name:
        assert_optimizer_is_partitioned(run_folder(recipe, name) / "train" / "checkpoint-20")
    logs = run_folder(recipe, name) / "train" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["rank-0.log", "rank-1.log"]


def assert_optimizer_is_partitioned(checkpoint: Path) -> None:
    num_trained = sum(weight.numel() for weight in load_file(checkpoint / "adapter_model.safetensors").values())
    parts = sorted(checkpoint.glob("global_step20/zero_pp_rank_*_optim_states.pt"))
    assert len(parts) == 2
    sizes = []
    for part in parts:
        state = torch.load(part, weights_only=False)["optimizer_state_dict"]
        assert state["partition_count"] in (2, [2])
        (flat,) = state["single_partition_of_fp32_groups"]
        sizes.append(flat.numel())
    assert sizes[0] == sizes[1]
    assert num_trained <= sum(sizes) < num_trained + 64


GROUPED = {
    "apart": ("train.group_by_clip=off", "video.cache_features=off"),
    "grouped": ("train.max_rows_per_group=5",),
}


@pytest.fixture(scope="module")
def of_groups(tmp_path_factory) -> Path:
    """All rows are one step, so that grouping does not change which rows meet; three clips, and a row without one."""
    shapes = [json.loads(line) for line in (SHAPES / "train.jsonl").read_text().splitlines()]
    rows = [{**row, "videos": [str(SHAPES / row["videos"][0])]} for row in shapes[:12]]
    rows.append({"query": "Say yes .", "response": "yes"})
    assert len({str(row.get("videos")) for row in rows}) > 2
    train = {**TRAIN, "epochs": 20, "global_batch_rows": 14}
    folder = tmp_path_factory.mktemp("groups")
    recipe = make_project(folder, rows=rows, val_rows=rows[3:8], lora={"dropout": 0.0}, train=train)
    cvft_ok("train", recipe, "name=apart", *GROUPED["apart"])
    return recipe


def test_groups_train_and_answer_like_their_rows_apart(of_groups):
    alone = cvft_ok("train", of_groups, "name=grouped", *GROUPED["grouped"])
    assert "grouped by clip with at most 5 rows a group" in alone.stderr
    assert_same_training(of_groups, "grouped", "apart")
    metrics = [json.loads(cvft_ok("eval", of_groups, f"name={name}", *own).stdout) for name, own in GROUPED.items()]
    assert metrics[0] == metrics[1]
    predictions = [run_folder(of_groups, name) / "eval" / "adapter" / "predictions.jsonl" for name in GROUPED]
    assert predictions[0].read_text() == predictions[1].read_text()


@pytest.mark.long
def test_groups_train_on_two_ranks_like_their_rows_apart_on_one(of_groups):
    two = ("parallel.strategy=zero2", "parallel.num_gpus=2", "train.micro_batch_rows=7")
    cvft_ok("train", of_groups, "name=two", "train.group_by_clip=on", *two)
    assert_same_training(of_groups, "two", "apart")


def test_one_process_is_the_same_however_it_accumulates(recipe, one_process):
    cvft_ok("train", recipe, "name=whole", f"train.micro_batch_rows={GLOBAL_BATCH}")
    assert_same_training(recipe, "whole", one_process)


def test_the_loss_is_the_mean_over_the_tokens_of_the_global_batch(recipe, one_process):
    nlls = [nlls_of_answer(row) for row in first_global_batch()]
    token_mean = torch.cat(nlls).mean().item()
    mean_of_means = torch.stack([nll.mean() for nll in nlls]).mean().item()
    logged_loss = logged(recipe, one_process, "loss")[0]
    assert logged_loss == pytest.approx(token_mean, abs=2e-4)
    # the rows differ enough for the wrong mean to be seen
    assert abs(mean_of_means - token_mean) > 0.01


def first_global_batch() -> list[dict]:
    rows = mixed_rows()
    shapes = [RowShape((), 1, 1)] * len(rows)
    groups = next(make_steps(shapes, global_batch_rows=GLOBAL_BATCH, max_rows_per_group=1, seed=42))
    return [rows[number] for (number,) in groups]


def nlls_of_answer(row: dict) -> torch.Tensor:
    """Negative log-likelihood of each label token, by the base model: an adapter begins as nothing."""
    processor = tiny_processor()
    model = load_model(TINY, dtype=torch.float32)
    clip = {}
    if "videos" in row:
        decode = DecodeSettings.of("chat", max_frames=24, decoder="pyav", timeout_s=60, memory_gib=4)
        source = DecodedClips(RowEncoder(processor, sampling="chat"), decode)
        loaded = source.load(Path(row["videos"][0]))
        source.close()
        pixels, seconds = loaded.tensors["pixel_values"], time_indices(loaded.view.timestamps_s, sampling="chat")
        assert list(seconds) == list(range(len(pixels)))
        clip = {"pixel_values": pixels, "time_indices": seconds}
    encoded = processor.encode(row["query"], response=row["response"], **clip)
    inputs = processor.collate([encoded], padding_side="right")
    labels = inputs.pop("labels")[0, 1:]
    with torch.no_grad():
        logits = model(**inputs).logits[0, :-1]
    return F.cross_entropy(logits, labels, reduction="none")[labels != -100]


def test_two_machines_meet_and_train_like_one_process(recipe, one_process):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = ["name=nodes", "parallel.strategy=ddp", "parallel.num_gpus=1", "parallel.num_nodes=2"]
    settings += [f"parallel.rendezvous=127.0.0.1:{port}", "parallel.rendezvous_timeout_s=1200"]
    command = [sys.executable, "-m", "cvft", "train", str(recipe), *settings]
    nodes = [
        subprocess.Popen(
            [*command, f"parallel.node_rank={rank}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in (1, 0)
    ]
    said = [node.communicate(timeout=1500) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "the first machine has the adapter" in said[0][0]
    assert_same_training(recipe, "nodes", one_process)


def test_nobody_to_meet_and_a_taken_port_are_told(recipe):
    settings = ["name=alone", "parallel.strategy=ddp", "parallel.num_gpus=1", "parallel.num_nodes=2"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"parallel.rendezvous=127.0.0.1:{server.getsockname()[1]}"
        taken = cvft("train", recipe, *settings, address, "parallel.node_rank=0")
    assert taken.returncode == 2
    assert "parallel.rendezvous: got port" in taken.stderr
    unreachable = cvft("train", recipe, *settings, address, "parallel.node_rank=1", "parallel.rendezvous_timeout_s=2")
    assert unreachable.returncode == 2
    assert "parallel.rendezvous: got no answer from 127.0.0.1" in unreachable.stderr
    assert not run_folder(recipe, "alone").exists()


def test_more_gpus_than_present_are_refused(recipe):
    result = cvft("train", recipe, "name=x", "parallel.device=cuda", "parallel.strategy=ddp", "parallel.num_gpus=4")
    assert result.returncode == 2
    assert "parallel.num_gpus: got `4`, need at most the" in result.stderr


TOWER = ("lora.targets=all-linear", "lora.train_vision_tower=true", "lora.train_projector=true", "train.epochs=2")
TOWER += ("train.eval_answers=null",)  # ZeRO-3 cannot answer


@pytest.fixture(scope="module")
def one_process_with_tower(recipe) -> str:
    cvft_ok("train", recipe, "name=one_tower", *TOWER)
    return "one_tower"


@pytest.mark.parametrize("strategy", [pytest.param("zero2", marks=pytest.mark.long), "zero3"])
def test_a_trained_tower_and_rows_without_clips_do_not_keep_ranks_waiting(recipe, one_process_with_tower, strategy):
    name = f"tower_{strategy}"
    cvft_ok("train", recipe, f"name={name}", f"parallel.strategy={strategy}", "parallel.num_gpus=2", *TOWER)
    # Adam divides by the size of the gradient: rounding shows where gradients are tiny, as in the tower
    assert_same_training(recipe, name, one_process_with_tower, tolerance=1e-4)


@pytest.mark.long
def test_zero2_offload_trains_with_an_optimizer_that_needs_no_compiler(recipe, one_process, tmp_path):
    config = {
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        "zero_force_ds_cpu_optimizer": False,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
    (tmp_path / "offload.json").write_text(json.dumps(config))
    settings = ["parallel.strategy=zero2_offload", "parallel.num_gpus=2"]
    settings += [f"parallel.deepspeed_config={tmp_path / 'offload.json'}"]
    cvft_ok("train", recipe, "name=offload", *settings)
    assert_same_training(recipe, "offload", one_process)
