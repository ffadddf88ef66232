"""Writes tests/golden/qwen_vl: what the makers' own code makes of `qwen_cases.py`. For a person; no test runs it.

    pip install --no-deps --target OLD transformers==4.57.6 'huggingface-hub<1' 'tokenizers<0.23'
    pip install --no-deps --target FIRST5 transformers==5.2.0
    pip install --no-deps --target VISION torchvision==VERSION_FOR_THE_INSTALLED_TORCH
    PYTHONPATH=OLD:VISION:. python tests/make_qwen_goldens.py TEMPLATES qwen2_5_vl qwen3_vl qwen3_vl_moe
    PYTHONPATH=FIRST5:VISION:. python tests/make_qwen_goldens.py TEMPLATES qwen3_5 qwen3_5_moe
    PYTHONPATH=VISION:. python tests/make_qwen_goldens.py TEMPLATES qwen2_5_vl qwen3_vl qwen3_5

Behind a name, `:images` makes the goldens of rows that show a picture, and `:several` those of rows that show several clips or
pictures: with the releases' versions

TEMPLATES holds GENERATION.jinja, the chat templates of Qwen2.5-VL-7B-Instruct, Qwen3-VL-8B-Instruct and Qwen3.5-4B. There are
several versions of transformers, as they disagree: those that the makers released their models with, and the installed one.
Models run under the former. No cvft is imported: it needs the installed transformers.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torchvision's python beside a torch that it was not built for: two operators must be declared before it is imported
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import transformers  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms.v2.functional import resize  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

from tests.qwen_cases import (  # noqa: E402
    CASES,
    IMAGE_CASES,
    IMAGE_MODEL_CASES,
    MODEL_CASES,
    NUM_NEW_TOKENS,
    SEVERAL_CASES,
    SEVERAL_MODEL_CASES,
    SHOWN_IDS,
    Case,
    draw_sizes,
)
from tests.qwen_tiny import CLASSES, MOE_KINDS, generation_of, make_qwen_folder  # noqa: E402

BY_NAME = {case.name: case for case in CASES}
GOLDEN = Path(__file__).parent / "golden" / "qwen_vl"
RELEASES = {"qwen2_5_vl": "4.57.6", "qwen3_vl": "4.57.6", "qwen3_5": "5.2.0"}
IS_RELEASE = transformers.__version__ in RELEASES.values()
VARIANT = {
    "clip_tags": "released" if IS_RELEASE else "transformers5",
    "text_positions": "released" if IS_RELEASE else "transformers5",
    "grid_seconds": "truncated" if IS_RELEASE else "exact",
}


def build_processor(folder: Path, kind: str, template: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if kind == "qwen2_5_vl":
        images, videos = transformers.Qwen2VLImageProcessorFast(), transformers.Qwen2VLVideoProcessor()
        return transformers.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template)
    half = [0.5] * 3  # as preprocessor_config.json of the checkpoints says
    images = transformers.Qwen2VLImageProcessorFast(patch_size=16, image_mean=half, image_std=half)
    videos = transformers.Qwen3VLVideoProcessor()
    return transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template=template)


def messages_of(case: Case) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [] if case.system is None else [{"role": "system", "content": case.system}]
    for number, (query, answer) in enumerate([*case.history, (case.query, case.response)]):
        video = [{"type": "image" if clip.is_image else "video"} for clip in case.clips if number == 0]
        content = [*video, {"type": "text", "text": query}] if video else query
        turns.append({"role": "user", "content": content})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    return turns


def process(processor: Any, kind: str, case: Case) -> dict[str, Any]:
    """Runs the makers' processor as ms-swift does: frames resized by the rule per frame, then no further."""
    text = processor.apply_chat_template(
        messages_of(case), tokenize=False, add_generation_prompt=case.response is None, enable_thinking=False
    )
    if not case.num_frames:
        return dict(processor(text=[text], return_tensors="pt"))
    drawn = [torch.from_numpy(clip.draw_frames()).permute(0, 3, 1, 2).contiguous() for clip in case.clips]
    factor = 28 if kind == "qwen2_5_vl" else 32
    size = {"shortest_edge": case.min_tokens * factor**2, "longest_edge": case.max_tokens * factor**2}
    if case.is_image:
        return dict(processor(text=[text], images=[frames[0] for frames in drawn], return_tensors="pt", size=size))
    extra: dict[str, Any] = {"do_resize": False}
    if kind == "qwen2_5_vl":
        rates = [clip.num_frames / clip.num_frames_total * clip.avg_fps for clip in case.clips]
        extra["fps"] = rates if case.beside else rates[0]
        if IS_RELEASE and not case.beside:  # this one sizes by the same rule: let it do so itself
            extra |= {"do_resize": True, "size": size}
    if extra["do_resize"] is False:
        drawn = [resize_clip(frames, clip, factor=factor) for frames, clip in zip(drawn, case.clips, strict=True)]
    if kind != "qwen2_5_vl" or not IS_RELEASE:
        extra["video_metadata"] = [
            VideoMetadata(
                clip.num_frames_total,
                fps=clip.avg_fps,
                duration=clip.num_frames_total / clip.avg_fps,
                frames_indices=clip.frame_indices,
            )
            for clip in case.clips
        ]
    return dict(processor(text=[text], videos=drawn, return_tensors="pt", do_sample_frames=False, **extra))


def resize_clip(frames: torch.Tensor, clip: Case, *, factor: int) -> torch.Tensor:
    low, high = clip.min_tokens * factor**2, clip.max_tokens * factor**2
    size = list(smart_resize(clip.height, clip.width, factor=factor, min_pixels=low, max_pixels=high))
    resized: torch.Tensor = resize(frames, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def positions_of(model: Any, kind: str, inputs: dict[str, Any]) -> torch.Tensor:
    arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    if "image_grid_thw" in inputs:
        arguments["image_grid_thw"] = inputs["image_grid_thw"]
        if not IS_RELEASE:
            arguments["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        return model.model.get_rope_index(**arguments)[0][:, 0].T
    if "video_grid_thw" not in inputs:  # the processor's types exist only beside a clip
        return torch.arange(inputs["input_ids"].shape[1])[:, None].expand(-1, 3)
    arguments["video_grid_thw"] = inputs["video_grid_thw"]
    if kind == "qwen2_5_vl":
        arguments["second_per_grid_ts"] = inputs["second_per_grid_ts"]
    if not IS_RELEASE:
        arguments["mm_token_type_ids"] = (inputs["input_ids"] == model.config.video_token_id).int() * 2
    return model.model.get_rope_index(**arguments)[0][:, 0].T


def run_model(model: Any, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns shown logits everywhere, all logits at the end, and greedy ids from there on."""
    inputs = {name: value for name, value in inputs.items() if name not in ("video_metadata", "mm_token_type_ids")}
    if not IS_RELEASE and "video_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.video_token_id).int() * 2
    if not IS_RELEASE and "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        new = model.generate(
            **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=NUM_NEW_TOKENS, eos_token_id=None
        )
    return logits[:, list(SHOWN_IDS)].numpy(), logits[-1].numpy(), new[0, inputs["input_ids"].shape[1] :].numpy()


def make(kind: str, template: str, *, of: str) -> None:
    """Writes the goldens of a kind: of rows with a clip, of those with a picture (`images`), or with `several`."""
    plain = CASES if kind not in MOE_KINDS else [BY_NAME[name] for name in MODEL_CASES]
    chosen = {"": plain, "images": IMAGE_CASES, "several": SEVERAL_CASES}[of]
    arrays: dict[str, np.ndarray] = {}
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_qwen_folder(Path(temporary), kind)
        processor = build_processor(folder, kind, template)
        model = getattr(transformers, CLASSES[kind]).from_pretrained(folder, dtype=torch.float32).eval()
        for case in chosen:
            inputs = process(processor, kind, case)
            arrays[f"{case.name}/ids"] = inputs["input_ids"][0].numpy().astype(np.int16)
            arrays[f"{case.name}/positions"] = positions_of(model, kind, inputs).numpy().astype(np.int16)
            cases[case.name] = facts = {}
            if case.num_frames:
                pixels = inputs["pixel_values" if case.is_image else "pixel_values_videos"]
                grids = inputs["image_grid_thw" if case.is_image else "video_grid_thw"].tolist()
                facts["grid"] = grids if case.beside else grids[0]
                facts["pixels"] = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
            if (
                case.name in (*MODEL_CASES, *IMAGE_MODEL_CASES, *SEVERAL_MODEL_CASES)
                and transformers.__version__ == RELEASES[generation_of(kind)]
            ):
                shown, last, new = run_model(model, inputs)
                arrays |= {f"{case.name}/logits": shown, f"{case.name}/last": last}
                facts["greedy"] = new.tolist()
    sizes = []
    for height, width, factor, low, high in [] if of else draw_sizes():
        try:
            sizes.append(
                smart_resize(height, width, factor=factor, min_pixels=low * factor**2, max_pixels=high * factor**2)
            )
        except ValueError:
            sizes.append(None)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    name = f"{kind}{f'-{of}' if of else ''}-{transformers.__version__}"
    about = {
        "kind": kind,
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "variant": VARIANT,
        "cases": cases,
        "sizes": sizes,
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(about, indent=None, separators=(",", ":")) + "\n")
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    print(name, len(cases), "cases", sum(len(arrays[key]) for key in arrays if key.endswith("/ids")), "tokens")


if __name__ == "__main__":
    for each in sys.argv[2:]:
        kind, _, of = each.partition(":")
        make(kind, (Path(sys.argv[1]) / f"{generation_of(kind)}.jinja").read_text(), of=of)
