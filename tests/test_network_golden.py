"""The native model against vectors that the published code computed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from cvft.families.cogvlm2_video.network.preprocess import preprocess_frames
from tests.golden_files import golden_files, open_golden_model

NUM_CUT_TOKENS = 6  # the golden prompt is the sequence without its last six tokens
NUM_NEW_TOKENS = 8
MAX_FP32_LOGIT_ERROR = 2e-5
MAX_FP32_GRADIENT_ERROR = 1e-5
MAX_BF16_GRADIENT_ERROR = 5e-2  # bf16 keeps 8 bits; reductions over a row accumulate their rounding


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
            max_error = 2 * bf16_ulp(largest) if is_bf16 else MAX_FP32_LOGIT_ERROR

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
