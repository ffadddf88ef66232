"""The native model against vectors that the published code computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.layers import RotaryEmbedding
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from cvft.families.cogvlm2_video.network.preprocess import preprocess_frames
from tests.golden_files import SHIPPED, golden_files, open_golden_model

NUM_CUT_TOKENS = 6  # the golden prompt is the sequence without its last six tokens
NUM_NEW_TOKENS = 8
MAX_FP32_LOGIT_ERROR = 2e-5
MAX_FP32_GRADIENT_ERROR = 1e-5
MAX_BF16_LOGIT_ULPS = 4 if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 2
"""The published code ran with vector instructions. Without them, as under ATEN_CPU_CAPABILITY=default, sums run in another order:
3 are seen there, and 0 with them, where a rotary table in fp32 is 3 off."""
MAX_BF16_GRADIENT_ERROR = 5e-2  # bf16 keeps 8 bits; reductions over a row accumulate their rounding


CONTENT = {
    "README.md": None,
    "cider_d.json": 200,
    "demo.json": None,
    "model_bf16.safetensors": 1,
    "model_fp32.safetensors": 2,
    "preprocess.safetensors": 5,
    "glm4v": None,  # these are counted where they are used
    "internvl": None,
    "qwen_vl": None,
    "sampling_scikit_video.json": 4,
    "state_dict.json": 1029,
    "token_layout.json": 90,
    "vllm.json": 12,
}
"""Every file of `tests/golden` and how many cases it has: one that is gone would make its tests vanish."""


MAX_BF16_RELATIVE_ERROR = 0.02
"""Of all logits together, against fp64: what bf16 rounds away in three layers."""


def bf16_ulp(value: float) -> float:
    """Distance between neighbouring bf16 numbers at `value`: 8 bits of significand."""
    return 2.0 ** (torch.tensor(value).log2().floor().item() - 7)


def build(golden, attention: str) -> CogVLM2VideoForCausalLM:
    model = CogVLM2VideoForCausalLM._from_config(
        CogVLM2VideoConfig(**golden.config), dtype=torch.float32, attn_implementation=attention
    )
    weights = golden.weights()
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("path", golden_files("model_*.safetensors"), ids=lambda p: p.stem)
def test_logits_loss_gradients_and_greedy_ids_equal_the_published_code(path: Path):
    with open_golden_model(path) as golden:
        model = build(golden, "sdpa")
        is_bf16 = model.dtype == torch.bfloat16
        for name in golden.cases():
            case = golden.case(name)
            inputs = {k: case[k] for k in ("input_ids", "token_type_ids", "pixel_values") if k in case}
            largest = case["logits"].abs().max().item()
            max_error = MAX_BF16_LOGIT_ULPS * bf16_ulp(largest) if is_bf16 else MAX_FP32_LOGIT_ERROR

            model.zero_grad()
            if "vision_features" in case:
                want = case["vision_features"].float()
                scale = max(1.0, want.abs().max().item())
                atol = 4 * bf16_ulp(scale) if is_bf16 else 1e-5 * scale
                features = model.model.vision(case["pixel_values"]).float()
                torch.testing.assert_close(features, want, rtol=0, atol=atol)
            out = model(**inputs, labels=case["labels"])
            assert (out.logits.float() - case["logits"]).abs().max().item() <= max_error
            assert out.loss.item() == pytest.approx(case["loss"].item(), abs=1e-2 if is_bf16 else 1e-5)

            out.loss.backward()
            gradients = {k.removeprefix("grad."): v for k, v in case.items() if k.startswith("grad.")}
            assert gradients
            for key, want in gradients.items():
                error = relative_error(model.get_parameter(key).grad, want)
                assert error <= (MAX_BF16_GRADIENT_ERROR if is_bf16 else MAX_FP32_GRADIENT_ERROR), key

            prompt_length = case["input_ids"].shape[1] - NUM_CUT_TOKENS
            generated = model.generate(
                **{key: value[:, :prompt_length] if value.dim() == 2 else value for key, value in inputs.items()},
                max_new_tokens=NUM_NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
            assert generated.sequences[0, prompt_length:].tolist() == case["generated_ids"].tolist()
            error = (torch.cat(generated.logits).float() - case["generated_logits"]).abs().max().item()
            assert error <= max_error


@pytest.mark.parametrize("path", golden_files("model_fp32*.safetensors"), ids=lambda p: p.stem)
def test_eager_attention_equals_sdpa(path: Path):
    """fp32 only: in bf16 the written-out scores are rounded before the softmax, the fused kernel's are not."""
    with open_golden_model(path) as golden:
        case = golden.case("case0")
        model = build(golden, "eager")
        out = model(**{k: case[k] for k in ("input_ids", "token_type_ids", "pixel_values")})
        assert (out.logits - case["logits"]).abs().max().item() <= MAX_FP32_LOGIT_ERROR


@pytest.mark.parametrize("path", golden_files("model_*.safetensors"), ids=lambda p: p.stem)
def test_position_ids_equal_the_published_code(path: Path):
    with open_golden_model(path) as golden:
        for name in golden.cases():
            case = golden.case(name)
            assert torch.equal(position_ids_from_types(case["token_type_ids"]), case["position_ids"])


@pytest.mark.parametrize("path", golden_files("preprocess*.safetensors"), ids=lambda p: p.stem)
def test_pixels_equal_the_published_code(path: Path):
    with safe_open(path, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
        assert cases
        for i, case in enumerate(cases):
            frames = file.get_tensor(f"{i}.raw").permute(1, 2, 3, 0)
            pixels = preprocess_frames(frames.contiguous(), image_size=case["image_size"])
            assert (pixels - file.get_tensor(f"{i}.pixels")).abs().max().item() <= 1e-6


def count_cases(path: Path) -> int | None:
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        return None if path.name == "demo.json" else len(values.get("cases") or values.get("sets") or values)
    if path.suffix == ".md" or path.is_dir():
        return None
    with safe_open(path, "pt") as file:
        if "cases" in file.metadata():
            return len(json.loads(file.metadata()["cases"]))
    with open_golden_model(path) as golden:
        return len(golden.cases())


def test_every_golden_file_is_there_with_all_its_cases():
    assert {path.name: count_cases(path) for path in SHIPPED.iterdir()} == CONTENT


def round_to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounds fp32 to the nearest bf16, a half to the even one, by its bits: nothing of torch's is used."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def published_angles(num_positions: int, inv_freq: np.ndarray) -> np.ndarray:
    """Angles as the published code has them in bf16: position, frequency and their product are all rounded."""
    positions = round_to_bf16(np.arange(num_positions))
    return round_to_bf16(positions[:, None] * round_to_bf16(inv_freq)[None])


HEAD_DIM = 128
"""Of the published model, whose frequencies the deviations below are about."""


def test_the_rotary_table_is_the_published_one_at_every_position_in_bf16():
    """Also above 256, where neighbouring positions fall together: every second differs there, from 512 on every fourth."""
    table = RotaryEmbedding(CogVLM2VideoConfig(hidden_size=HEAD_DIM, num_attention_heads=1, num_multi_query_heads=1))
    inv_freq = table.inv_freq.numpy()
    angles = published_angles(2048, inv_freq)
    cos, sin = table.to(torch.bfloat16)(torch.arange(2048)[None], dtype=torch.bfloat16)
    for got, want in ((cos, np.cos(angles.astype(np.float64))), (sin, np.sin(angles.astype(np.float64)))):
        # half a step of bf16 below 1, and what is left of a cosine in fp32
        assert np.abs(got[0, 0].float().numpy() - want).max() <= 2**-9 + 1e-6
    turns = torch.cat((cos, sin), -1)[0, 0]
    for first, last, step in ((0, 256, 1), (256, 512, 2), (512, 1024, 4), (1024, 2047, 8)):
        assert len(turns[first : last + 1].unique(dim=0)) == -(-(last - first) // step) + 1
    # how far from exact angles, as measured on the published code
    off = np.abs(angles - np.arange(2048)[:, None] * inv_freq.astype(np.float64)[None]).max(1)
    for position, deviation in ((100, 0.14), (117, 0.25), (256, 0.46), (257, 1.0), (1000, 1.4), (2000, 2.8)):
        assert off[position] == pytest.approx(deviation, rel=0.06)


def reference_logits(
    weights: dict[str, torch.Tensor], ids: list[int], angles: np.ndarray, config: dict
) -> torch.Tensor:
    """The decoder written out in fp64 for one row of text, from its description alone; only the angles are rounded."""
    heads, groups, eps = config["num_attention_heads"], config["num_multi_query_heads"], config["rms_norm_eps"]
    width = config["hidden_size"] // heads
    cos, sin = (torch.tensor(turn(angles.astype(np.float64))) for turn in (np.cos, np.sin))

    def weight(name: str) -> torch.Tensor:
        return weights[f"{name}.weight"].double()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight(name)

    def rotate(x: torch.Tensor) -> torch.Tensor:  # (heads, L, width)
        a, b = x[..., : width // 2], x[..., width // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    x = weight("model.embed_tokens")[ids]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        qkv = norm(x, f"{layer}.input_layernorm") @ weight(f"{layer}.self_attn.language_expert_query_key_value").T
        q, k, v = (
            part.reshape(len(ids), -1, width).transpose(0, 1)
            for part in qkv.split([heads * width, groups * width, groups * width], -1)
        )
        k, v = (part.repeat_interleave(heads // groups, 0) for part in (rotate(k), v))
        scores = rotate(q) @ k.transpose(1, 2) / width**0.5
        scores += torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), -1)
        x = x + mixed @ weight(f"{layer}.self_attn.language_expert_dense").T
        h, mlp = norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp.language_mlp"
        gate = h @ weight(f"{mlp}.gate_proj").T
        x = x + (gate * gate.sigmoid() * (h @ weight(f"{mlp}.up_proj").T)) @ weight(f"{mlp}.down_proj").T
    return norm(x, "model.norm") @ weight("lm_head").T


LONG = 700


def test_rows_beyond_position_256_equal_the_decoder_written_out():
    """Published vectors end at position 35, where a table in fp32 is hardly told from one in bf16."""
    (path,) = golden_files("model_bf16.safetensors")
    with open_golden_model(path) as golden:
        # torch has no fused bf16 kernel for so many tokens where there are no vector instructions
        model, weights = build(golden, "eager"), golden.weights()
    ids = torch.randint(0, 500, (LONG,), generator=torch.Generator().manual_seed(0)).tolist()
    inv_freq = weights["model.layers.0.self_attn.rotary_emb.inv_freq"].float().numpy()
    want = reference_logits(weights, ids, published_angles(LONG, inv_freq), golden.config)
    exact = reference_logits(weights, ids, np.arange(LONG)[:, None] * inv_freq.astype(np.float64)[None], golden.config)
    with torch.no_grad():
        got = model(input_ids=torch.tensor([ids]), token_type_ids=torch.zeros(1, LONG, dtype=torch.long)).logits[0]
    beyond = slice(257, LONG)
    error, error_of_exact = (relative_error(got[beyond], each[beyond]) for each in (want, exact))
    assert error <= MAX_BF16_RELATIVE_ERROR
    assert error_of_exact > 4 * MAX_BF16_RELATIVE_ERROR, "a table in fp32 would pass"
