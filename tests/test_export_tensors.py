"""What the streaming check of merged tensors accepts and what it catches: a table of damages, in every pair of precisions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvft.dtypes import BY_NAME
from cvft.errors import VerifyError
from cvft.export.merge import merge_adapter
from cvft.export.tensors import TensorCheck, compare_tensors, half_ulp
from cvft.weights.folder import ADAPTER_WEIGHTS_FILE
from cvft.weights.shards import INDEX_FILE
from tests.official_folder import small_config, write_official_folder
from tests.random_adapter import base_of, contract_of, write_random_adapter

DTYPES = ("bf16", "fp16", "fp32")
RECIPE_DTYPES = ("bf16", "fp32")
"""Those that `export.dtype` offers."""

CONFIG = {**small_config(), "vocab_size": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
"""Of 512 tokens: no row is answered here."""

CHANGED = "model.layers.1.self_attn.language_expert_query_key_value.weight"
SQUARE = "model.layers.1.self_attn.language_expert_dense.weight"
UNTOUCHED = "lm_head.weight"
BIAS = "model.vision.transformer.layers.1.mlp.fc1.bias"
PROJECTOR = "model.vision.linear_proj.gate_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_official_folder(tmp_path_factory.mktemp("base") / "cogvlm2-video-llama3-chat", config=CONFIG, seed=0)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    return write_random_adapter(base, folder, targets="all-linear", tower=True)


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("merged")
    return {dtype: merge(base, adapter, folder / dtype, dtype=dtype) for dtype in DTYPES}


def merge(base: Path, adapter: Path, output: Path, *, dtype: str) -> Path:
    wanted = contract_of(base)
    opened = base_of(base)
    return merge_adapter(
        opened, adapter_folder=adapter, output=output, dtype=dtype, wanted=wanted, keep_remote_code=False
    )


def check(base: Path, adapter: Path, merged: Path, *, dtype: str) -> TensorCheck:
    return compare_tensors(base_of(base), adapter_folder=adapter, merged_folder=merged, dtype=dtype)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_merge_is_accepted_whole(base, adapter, merged, dtype):
    outcome = check(base, adapter, merged[dtype], dtype=dtype)
    assert outcome.num_compared == len(read_weights(base))
    assert 0 < outcome.num_changed < outcome.num_compared
    # half a unit in the last place comes up among so many numbers; in fp32, the sum itself could be further off than it is
    assert (0.2 if dtype == "fp32" else 0.99) < outcome.max_error_share <= 1


def test_what_is_written_is_the_exact_sum_rounded_once(base, adapter, merged):
    """But where the exact sum lies so near the middle of two numbers that fp32 cannot tell on which side."""
    before, got = read_weights(base), read_weights(merged["bf16"])
    parts = load_file(adapter / ADAPTER_WEIGHTS_FILE)
    num_other = num_all = 0
    for key in (key for key in parts if key.endswith(".lora_A.weight")):
        stem = key.removesuffix(".lora_A.weight")
        name = f"{stem.removeprefix('base_model.model.')}.weight"
        weight = before[name].double()
        update = 3 * parts[f"{stem}.lora_B.weight"].double() @ parts[key].double()
        exact, of_fp32 = weight + update, 2**-18 * (weight.abs() + update.abs())
        below, above = ((exact + sign * of_fp32).float().bfloat16() for sign in (-1, 1))
        assert ((below <= got[name]) & (got[name] <= above)).all(), name
        num_other += int((got[name] != exact.bfloat16()).sum())
        num_all += exact.numel()
    assert num_all > 250_000
    assert num_other <= num_all * 1e-4


def replace(name: str, edit):
    """A damage of one tensor, in the file that holds it."""

    def damage(folder: Path, base: Path) -> None:
        path = folder / json.loads((folder / INDEX_FILE).read_text())["weight_map"][name]
        weights = load_file(path)
        weights[name] = edit(weights[name].clone()).contiguous()
        save_file(weights, path, metadata={"format": "pt"})

    return damage


def put(index, value):
    def edit(weight: torch.Tensor) -> torch.Tensor:
        weight[index] = value(weight[index])
        return weight

    return edit


def next_number(weight: torch.Tensor) -> torch.Tensor:
    """The neighbour, further from 0."""
    return (weight.view({2: torch.int16, 4: torch.int32}[weight.element_size()]) + 1).view(weight.dtype)


def from_base(name: str, *, scale: float = 1.0):
    def damage(folder: Path, base: Path) -> None:
        replace(name, lambda weight: (read_weights(base)[name].float() * scale).to(weight.dtype))(folder, base)

    return damage


def swap(first: str, second: str):
    def damage(folder: Path, base: Path) -> None:
        weights = read_weights(folder)
        replace(first, lambda _: weights[second])(folder, base)
        replace(second, lambda _: weights[first])(folder, base)

    return damage


def move(name: str, *, edit_index: bool):
    def damage(folder: Path, base: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text())
        here = folder / index["weight_map"][name]
        there = next(path for path in sorted(folder.glob("*.safetensors")) if path != here)
        weights, others = load_file(here), load_file(there)
        others[name] = weights.pop(name)
        save_file(weights, here, metadata={"format": "pt"})
        save_file(others, there, metadata={"format": "pt"})
        if edit_index:
            index["weight_map"][name] = there.name
            (folder / INDEX_FILE).write_text(json.dumps(index))

    return damage


def drop(name: str):
    def damage(folder: Path, base: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text())
        path = folder / index["weight_map"].pop(name)
        weights = load_file(path)
        del weights[name]
        save_file(weights, path, metadata={"format": "pt"})
        (folder / INDEX_FILE).write_text(json.dumps(index))

    return damage


def add(name: str):
    def damage(folder: Path, base: Path) -> None:
        index = json.loads((folder / INDEX_FILE).read_text())
        path = next(iter(sorted(folder.glob("*.safetensors"))))
        save_file(load_file(path) | {name: torch.zeros(4, dtype=torch.bfloat16)}, path, metadata={"format": "pt"})
        index["weight_map"][name] = path.name
        (folder / INDEX_FILE).write_text(json.dumps(index))

    return damage


def rename_a_file(folder: Path, base: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    path = folder / "model-00003-of-00006.safetensors"
    path.rename(folder / "other.safetensors")
    index["weight_map"] = {
        name: "other.safetensors" if file == path.name else file for name, file in index["weight_map"].items()
    }
    (folder / INDEX_FILE).write_text(json.dumps(index))


OTHER_BASE = torch.Generator().manual_seed(9)

DAMAGES = {
    "one tensor replaced": (replace(CHANGED, lambda w: w.flip(0)), f"{CHANGED}: got .* are not base \\+ adapter"),
    "one untouched tensor replaced": (replace(UNTOUCHED, lambda w: w.flip(0)), f"{UNTOUCHED}: got .* not the base's"),
    "one row": (replace(CHANGED, put(7, lambda row: row.roll(1))), r"first \[7, "),
    "one row of an untouched tensor": (replace(UNTOUCHED, put(7, lambda row: row.roll(1))), r"first \[7, "),
    "one number": (replace(CHANGED, put((3, 5), lambda x: x * 1.01)), r"got 1 of .*first \[3, 5\]"),
    "one bit of an untouched number": (replace(UNTOUCHED, put((3, 5), next_number)), r"got 1 of .*first \[3, 5\]"),
    "a sign": (replace(SQUARE, put((0, 0), torch.neg)), r"got 1 of 4096 .*first \[0, 0\]"),
    "nan": (replace(SQUARE, put((1, 1), lambda x: x * float("nan"))), r"got 1 of 4096 .*\[1, 1\]: nan instead"),
    "two layers swapped": (swap(CHANGED, CHANGED.replace("s.1", "s.2")), "(?s)layers.1.*layers.2"),
    "two untouched layers swapped": (swap(BIAS, BIAS.replace("s.1", "s.2")), "(?s)layers.1.*layers.2"),
    "a stale base": (
        replace(CHANGED, lambda w: (w.float() + 0.02 * torch.randn(w.shape, generator=OTHER_BASE)).to(w.dtype)),
        "not base",
    ),
    "a stale untouched tensor": (
        replace(UNTOUCHED, lambda w: (w.float() + 0.02 * torch.randn(w.shape, generator=OTHER_BASE)).to(w.dtype)),
        "not the base's",
    ),
    "a dropped adapter layer": (from_base(SQUARE), f"{SQUARE}: got .* are not base \\+ adapter"),
    "a dropped projector": (from_base(PROJECTOR), f"{PROJECTOR}: got .* are not base \\+ adapter"),
    "a projector of zeros": (from_base(PROJECTOR, scale=0.0), f"{PROJECTOR}: got .* are not base \\+ adapter"),
    "transposed": (replace(SQUARE, torch.t), f"{SQUARE}: got .* are not base \\+ adapter"),
    "transposed to another shape": (replace(CHANGED, torch.t), r"shape \[64, 128\], need \[128, 64\]"),
    "a tensor in another file": (move(CHANGED, edit_index=True), "got model-00001-of-00006.safetensors, need model-0"),
    "a tensor in another file, not listed": (move(CHANGED, edit_index=False), "in other files"),
    "a file of another name": (rename_a_file, "got other.safetensors, need model-00003-of-00006.safetensors"),
    "a missing tensor": (drop(CHANGED), f"`{CHANGED}` missing"),
    "a missing projector": (drop(PROJECTOR), f"`{PROJECTOR}` missing"),
    "an extra tensor": (add("model.layers.9.weight"), "`model.layers.9.weight` unknown"),
    "another precision": (
        replace(UNTOUCHED, lambda w: w.float() if w.dtype != torch.float32 else w.bfloat16()),
        f"{UNTOUCHED}: got .*, need ",
    ),
}
"""Damage -> what does it, and what the error must say. Every one is caught by the streaming check alone, without any logits."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dtype", RECIPE_DTYPES)
def test_every_damage_is_caught(base, adapter, merged, tmp_path, dtype, damage):
    shutil.copytree(merged[dtype], tmp_path / "merged")
    do_damage, message = DAMAGES[damage]
    do_damage(tmp_path / "merged", base)
    with pytest.raises(VerifyError, match=message):
        check(base, adapter, tmp_path / "merged", dtype=dtype)


@pytest.mark.parametrize("factor", [1.01, 0.99])
@pytest.mark.parametrize("dtype", RECIPE_DTYPES)
def test_updates_of_another_scale_are_caught(base, adapter, tmp_path, dtype, factor):
    """Among them an update that is small beside its weight: most of its numbers then round to the same."""
    for size in (1.0, 1e-2):
        honest, other = tmp_path / f"honest-{size}", tmp_path / f"other-{size}"
        for folder, scale in ((honest, size), (other, size * factor)):
            shutil.copytree(adapter, folder)
            weights = load_file(adapter / ADAPTER_WEIGHTS_FILE)
            weights = {name: value * scale if "lora_B" in name else value for name, value in weights.items()}
            save_file(weights, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
        result = merge(base, other, tmp_path / f"merged-{size}", dtype=dtype)
        with pytest.raises(VerifyError, match="are not base \\+ adapter"):
            check(base, honest, result, dtype=dtype)


def test_an_error_names_some_tensors_and_counts_the_rest(base, adapter, merged, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 13}))
    with pytest.raises(VerifyError) as raised:
        check(base, tmp_path / "adapter", merged["bf16"], dtype="bf16")
    assert len(raised.value.problems) == 9
    num_changed = check(base, adapter, merged["bf16"], dtype="bf16").num_changed
    assert raised.value.problems[-1].where == f"{num_changed - 8} more tensors"


def test_dora_is_recomputed_too(base, tmp_path):
    adapter = write_random_adapter(base, tmp_path / "adapter", targets="all-linear", use_dora=True)
    for dtype in DTYPES:
        result = merge(base, adapter, tmp_path / dtype, dtype=dtype)
        assert check(base, adapter, result, dtype=dtype).max_error_share <= 1
        replace(CHANGED, put(7, lambda row: row * 1.01))(result, base)
        with pytest.raises(VerifyError, match=r"first \[7, "):
            check(base, adapter, result, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_an_ulp_is_half_the_distance_to_the_next_number(dtype):
    kind = getattr(torch, BY_NAME[dtype].torch_name)
    smallest = torch.finfo(kind).smallest_normal
    numbers = torch.tensor([smallest / 4, smallest, 0.75, 1.0, 1.5, 2.0, 250.0, 1000.0]).to(kind)
    distance = next_number(numbers).double() - numbers.double()
    assert torch.equal(half_ulp(numbers.double(), dtype=kind), distance / 2)
    assert half_ulp(torch.zeros(1, dtype=torch.float64), dtype=kind).item() == distance[0].item() / 2
