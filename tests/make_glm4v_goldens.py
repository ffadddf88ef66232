"""Writes tests/golden/glm4v: what the makers' processor and transformers' model make of `glm4v_cases.py`. For a person.

    pip install --no-deps --target OLD transformers==4.57.6 'huggingface-hub<1' 'tokenizers<0.23'
    pip install --no-deps --target VISION torchvision==VERSION_FOR_THE_INSTALLED_TORCH
    PYTHONPATH=OLD:VISION:. python tests/make_glm4v_goldens.py [images]
    PYTHONPATH=VISION:. python tests/make_glm4v_goldens.py [images]

With `images`, those of rows that show a picture. The second run is that of the installed transformers. No cvft is imported: it
needs the installed one.
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
from transformers.models.glm4v.video_processing_glm4v import smart_resize  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

from tests.glm4v_cases import (  # noqa: E402
    CASES,
    FACTOR,
    IMAGE_BUDGET,
    IMAGE_CASES,
    IMAGE_MODEL_CASES,
    draw_sizes,
    max_clip_tokens,
    paired,
)
from tests.glm4v_tiny import CHAT_TEMPLATE, CLASS, make_glm4v_folder  # noqa: E402
from tests.qwen_cases import MODEL_CASES, NUM_NEW_TOKENS, SHOWN_IDS, Case  # noqa: E402

IS_RELEASE = transformers.__version__.startswith("4.")
GOLDEN = Path(__file__).parent / "golden" / "glm4v"


def messages_of(case: Case) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [] if case.system is None else [{"role": "system", "content": case.system}]
    for number, (query, answer) in enumerate([*case.history, (case.query, case.response)]):
        video = [{"type": "image" if case.is_image else "video"}] if case.num_frames and number == 0 else []
        content = [*video, {"type": "text", "text": query}] if video else query
        turns.append({"role": "user", "content": content})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    return turns


def process(processor: Any, case: Case) -> dict[str, Any]:
    text = processor.apply_chat_template(messages_of(case), tokenize=False, add_generation_prompt=case.response is None)
    if not case.num_frames:
        return dict(processor(text=[text], return_tensors="pt"))
    if case.is_image:
        picture = torch.from_numpy(case.draw_frames()[0]).permute(2, 0, 1).contiguous()
        return dict(processor(text=[text], images=[picture], return_tensors="pt", size=IMAGE_BUDGET))
    indices = paired(case.frame_indices)
    frames = torch.from_numpy(paired(case.draw_frames())).permute(0, 3, 1, 2).contiguous()
    metadata = VideoMetadata(
        case.num_frames_total,
        fps=case.avg_fps,
        duration=case.num_frames_total / case.avg_fps,
        frames_indices=np.array(indices),
    )
    budget = {"shortest_edge": 112 * 112, "longest_edge": max_clip_tokens(case) * FACTOR**2 * 2}
    return dict(
        processor(
            text=[text],
            videos=[frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            size=budget,
            return_tensors="pt",
        )
    )


def types_of(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return (inputs["input_ids"] == model.config.image_token_id).int() * (1 if "image_grid_thw" in inputs else 2)


def positions_of(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    if not inputs.keys() & {"video_grid_thw", "image_grid_thw"}:
        return torch.arange(inputs["input_ids"].shape[1])[:, None].expand(-1, 3)
    names = ("input_ids", "attention_mask", "video_grid_thw", "image_grid_thw")
    arguments = {key: inputs[key] for key in names if key in inputs}
    if not IS_RELEASE:
        arguments["mm_token_type_ids"] = types_of(model, inputs)
    return model.model.get_rope_index(**arguments)[0][:, 0].T


def run_model(model: Any, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns shown logits everywhere, all logits at the end, and greedy ids from there on."""
    if not IS_RELEASE and inputs.keys() & {"video_grid_thw", "image_grid_thw"}:
        inputs = {**inputs, "mm_token_type_ids": types_of(model, inputs)}
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        new = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_NEW_TOKENS, eos_token_id=None)
    return logits[:, list(SHOWN_IDS)].numpy(), logits[-1].numpy(), new[0, inputs["input_ids"].shape[1] :].numpy()


def make(*, of_images: bool) -> None:
    arrays: dict[str, np.ndarray] = {}
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_glm4v_folder(Path(temporary))
        images = getattr(transformers, "Glm4vImageProcessorFast", None) or transformers.Glm4vImageProcessor
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        processor = transformers.Glm4vProcessor(
            images(), tokenizer, transformers.Glm4vVideoProcessor(), chat_template=CHAT_TEMPLATE
        )
        model = getattr(transformers, CLASS).from_pretrained(folder, dtype=torch.float32).eval()
        for case in IMAGE_CASES if of_images else CASES:
            if IS_RELEASE and min(case.height, case.width) < FACTOR:
                continue  # this one refuses frames smaller than a token
            inputs = process(processor, case)
            arrays[f"{case.name}/ids"] = inputs["input_ids"][0].numpy().astype(np.int16)
            arrays[f"{case.name}/positions"] = positions_of(model, inputs).numpy().astype(np.int16)
            cases[case.name] = facts = {}
            if case.num_frames:
                facts["grid"] = inputs["image_grid_thw" if of_images else "video_grid_thw"][0].tolist()
                pixels = inputs["pixel_values" if of_images else "pixel_values_videos"]
                facts["pixels"] = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
            if case.name in (IMAGE_MODEL_CASES if of_images else MODEL_CASES):
                names = ("input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw")
                names = (*names, "pixel_values", "image_grid_thw")
                shown, last, new = run_model(model, {key: inputs[key] for key in names if key in inputs})
                arrays |= {f"{case.name}/logits": shown, f"{case.name}/last": last}
                facts["greedy"] = new.tolist()
    sizes = []
    for frames, height, width, most in [] if of_images else draw_sizes():
        try:
            sizes.append(smart_resize(frames, height, width, factor=FACTOR, max_pixels=most * FACTOR**2 * 2))
        except ValueError:
            sizes.append(None)
    about = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "cases": cases,
        "sizes": sizes,
    }
    GOLDEN.mkdir(parents=True, exist_ok=True)
    name = f"glm4v{'-images' if of_images else ''}-{transformers.__version__}"
    (GOLDEN / f"{name}.json").write_text(json.dumps(about, indent=None, separators=(",", ":")) + "\n")
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    print(name, len(cases), "cases", sum(len(arrays[key]) for key in arrays if key.endswith("/ids")), "tokens")


if __name__ == "__main__":
    make(of_images=sys.argv[1:] == ["images"])
