"""Writes tests/golden/internvl: what the makers' processor and transformers' model make of `qwen_cases.py`. For a person.

    pip install --no-deps --target OLD transformers==4.57.6 'huggingface-hub<1' 'tokenizers<0.23'
    pip install --no-deps --target VISION torchvision==VERSION_FOR_THE_INSTALLED_TORCH
    PYTHONPATH=OLD:VISION:. python tests/make_internvl_goldens.py

With 5.19.0 in place of 4.57.6, every byte but the version is the same. No cvft is imported: it needs the installed transformers.
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
from transformers.video_utils import VideoMetadata  # noqa: E402

from tests.internvl_tiny import (  # noqa: E402
    CHAT_TEMPLATE,
    CLASS,
    KINDS,
    SIDE_PX,
    TOKENS_PER_FRAME,
    make_internvl_folder,
    preprocessor_config,
)
from tests.qwen_cases import MODEL_CASES, NUM_NEW_TOKENS, SHOWN_IDS, Case  # noqa: E402
from tests.segment_cases import CASES, draw_lengths  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "internvl"


def build_processor(folder: Path) -> Any:
    norm = {key: preprocessor_config()[key] for key in ("image_mean", "image_std", "size")}
    images = getattr(transformers, "GotOcr2ImageProcessorFast", None) or transformers.GotOcr2ImageProcessor
    return transformers.InternVLProcessor(
        images(**norm),
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.InternVLVideoProcessor(**norm),
        image_seq_length=TOKENS_PER_FRAME,
        chat_template=CHAT_TEMPLATE,
    )


def messages_of(case: Case) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [] if case.system is None else [{"role": "system", "content": case.system}]
    for number, (query, answer) in enumerate([*case.history, (case.query, case.response)]):
        video = [{"type": "video"}] if case.num_frames and number == 0 else []
        content = [*video, {"type": "text", "text": query}] if video else query
        turns.append({"role": "user", "content": content})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    return turns


def process(processor: Any, case: Case) -> dict[str, Any]:
    text = processor.apply_chat_template(messages_of(case), tokenize=False, add_generation_prompt=case.response is None)
    if not case.num_frames:
        return dict(processor(text=[text], return_tensors="pt"))
    frames = torch.from_numpy(case.draw_frames()).permute(0, 3, 1, 2).contiguous()
    return dict(processor(text=[text], videos=[frames], return_tensors="pt"))


def run_model(model: Any, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns shown logits everywhere, all logits at the end, and greedy ids from there on."""
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        new = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_NEW_TOKENS, eos_token_id=None)
    return logits[:, list(SHOWN_IDS)].numpy(), logits[-1].numpy(), new[0, inputs["input_ids"].shape[1] :].numpy()


def make(kind: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_internvl_folder(Path(temporary), kind)
        processor = build_processor(folder)
        model = getattr(transformers, CLASS).from_pretrained(folder, dtype=torch.float32).eval()
        for case in CASES if kind == KINDS[0] else (case for case in CASES if case.name in MODEL_CASES):
            inputs = process(processor, case)
            arrays[f"{case.name}/ids"] = inputs["input_ids"][0].numpy().astype(np.int16)
            cases[case.name] = facts = {}
            if case.num_frames:
                pixels = inputs["pixel_values"]
                assert pixels.shape == (case.num_frames, 3, SIDE_PX, SIDE_PX)
                facts["pixels"] = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
            if case.name in MODEL_CASES:
                inputs = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values") if key in inputs}
                shown, last, new = run_model(model, inputs)
                arrays |= {f"{case.name}/logits": shown, f"{case.name}/last": last}
                facts["greedy"] = new.tolist()
    segments = (
        []
        if kind != KINDS[0]
        else [
            processor.video_processor.sample_frames(VideoMetadata(total_num_frames=total), num_frames=number).tolist()
            for total, number in draw_lengths()
        ]
    )
    about = {
        "kind": kind,
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "cases": cases,
        **({"segments": segments} if segments else {}),
    }
    GOLDEN.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-{transformers.__version__}"
    (GOLDEN / f"{name}.json").write_text(json.dumps(about, indent=None, separators=(",", ":")) + "\n")
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    print(name, len(cases), "cases", sum(len(arrays[key]) for key in arrays if key.endswith("/ids")), "tokens")


if __name__ == "__main__":
    for each in sys.argv[1:] or KINDS:
        make(each)
