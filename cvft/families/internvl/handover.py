"""What vLLM has to be told so that it feeds a merged InternVL as its contract says. No torch.

contract + folder -> chat template, size for its video processor, settings of its loader -> `Handover`, or every reason why not

vLLM writes the tokenizer's `video_token` under the tokens of a clip, where transformers and we write `<IMG_CONTEXT>`. The model
sees neither: features stand in their place (`_merge_multimodal_embeddings`, by the places and not by the ids).

Source: vLLM 0.33.0, `model_executor/models/interns1.py`, which carries `InternVLForConditionalGeneration`, and
`multimodal/processing/processor.py`; `InternVLProcessor` and `InternVLVideoProcessor` of transformers 5.19, which it calls.
"""

from __future__ import annotations

import json
from typing import Any

from cvft.errors import quote
from cvft.families.engine_inputs import HINT_COPY, check_processor, check_uniform, media_of, pixels_of, write_chatml
from cvft.families.engines import Engine, Handover, Reasons, Sends
from cvft.families.family import Preprocessing
from cvft.families.generation_file import stop_tokens
from cvft.families.internvl.inputs import Inputs, read_channels
from cvft.families.internvl.sizes import Sizes, ties_embeddings
from cvft.families.internvl.tokenizer import FRAME_END, FRAME_START, TURN_END, TURN_START, SpecialTokens, load_encoder
from cvft.families.norms import PixelNorm
from cvft.families.processor_files import NESTING_FILE, read_stated
from cvft.families.text_encoder import SETTINGS_FILES, TextEncoder, open_tokenizer
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

IMAGE_SEQ_LENGTH = 256
"""Tokens of a frame where processor_config.json says nothing. Source: `InternVLProcessor` of transformers 5.19."""

NAMING_KEYS = ("extra_special_tokens", "model_specific_special_tokens")
"""Entries of tokenizer_config.json that name tokens: of transformers 4, and what 5 writes."""

SGLANG = (
    (
        "config.json: architectures",
        "`InternVLForConditionalGeneration`, for which the engine has no class of its own (`models/internvl.py` has "
        "`InternVLChatModel`, `models/interns1.py` `InternS1ForConditionalGeneration`)",
        "one that it has",
    ),
    (
        "prompt",
        "an engine that writes `Frame 1: ` (`process_qwen_mm_data_async` of `multimodal/processors/internvl.py`)",
        "`Frame1: `, as in training",
    ),
    (
        "pixels",
        "an engine that resizes frames after normalising, without antialias (`dynamic_preprocess` there)",
        "one that resizes as in training",
    ),
)
"""Why nothing can be told to SGLang. Source: its 0.5.23, `srt/`. Its backend of transformers' own classes
(`multimodal/processors/transformers_auto.py`) loads no videos."""


def hand_over(engine: Engine, folder: ModelFolder, how: Preprocessing, *, title: str, sends: Sends) -> Handover:
    """Says what vLLM has to be told.

    Args:
        engine: The engine.
        folder: The merged folder.
        how: How rows reach the model.
        title: The family's name in sentences.
        sends: What requests carry.

    Raises:
        ModelError: with everything that the engine cannot reproduce.
    """
    inputs, reasons = Inputs.of(how.fields), Reasons(engine, title)
    if engine.name != "vllm":
        for where, got, need in SGLANG:
            reasons.add(where, got, need)
        reasons.check()
    norm = PixelNorm(read_channels(inputs.pixel_mean), read_channels(inputs.pixel_std))
    # the engine's own means are others
    check_processor(folder, pixels_of(norm), reasons=reasons, stated=("image_mean", "image_std"))
    encode, special = load_encoder(folder)
    _check_model(folder, reasons=reasons)
    _check_text(encode, reasons=reasons)
    clip, clip_id = _find_clip_token(folder, special, reasons=reasons)
    if sends == "clips":
        check_uniform(how.decode.sampling, reasons=reasons)
    reasons.check()
    return Handover(
        chat_template=write_chatml(start=TURN_START, end=TURN_END, clip=f"{clip}\n"),
        media=media_of(how.decode.sampling, sends=sends),
        processor={"do_sample_frames": False, "size": {"height": inputs.frame_px, "width": inputs.frame_px}},
        system=inputs.system,
        stop_ids=tuple(stop_tokens(folder, turn_end=special.turn_end)),
        clip_id=special.image,
        engine_clip_id=clip_id,
    )


def _check_model(folder: ModelFolder, *, reasons: Reasons) -> None:
    """Refuses a folder of which the engine would make another model, or frames of another number of tokens."""
    ties, stated = ties_embeddings(folder.config), bool(folder.config["text_config"].get("tie_word_embeddings", False))
    if ties != stated:  # it reads the decoder's value alone, and then skips an output layer that is there
        where, need = "config.json: text_config.tie_word_embeddings", f"`{json.dumps(ties)}`, as at the top"
        reasons.add(where, f"`{json.dumps(stated)}`", need, HINT_COPY)
    num_tokens = Sizes.from_config(folder.config).tower.tokens_per_frame
    got = read_stated(folder, NESTING_FILE).get("image_seq_length", IMAGE_SEQ_LENGTH)
    if got != num_tokens:
        reasons.add(f"{NESTING_FILE}: image_seq_length", show(got), f"{num_tokens}, the tokens of a frame", HINT_COPY)


def _check_text(encode: TextEncoder, *, reasons: Reasons) -> None:
    """Refuses a tokenizer for which it matters that the engine encodes what stands before a clip apart from the clip."""
    before, first = "user\n", "Frame1: "
    if encode(before + first) != [*encode(before), *encode(first)]:
        got = f"one that joins {quote(before + first)}"
        reasons.add("tokenizer.json", got, "one that cuts it behind the newline, where the engine does")


def _find_clip_token(folder: ModelFolder, special: SpecialTokens, *, reasons: Reasons) -> tuple[str, int]:
    """Returns the token that stands for a clip in the engine's prompts and its id, by the names that its processor looks up."""
    name = SETTINGS_FILES[0]
    values = dict(read_stated(folder, name))
    for key in NAMING_KEYS:
        if isinstance(named := values.get(key), dict):
            values |= named
    names = open_tokenizer(folder.path)
    needed = {
        "context_image_token": names.id_to_token(special.image),
        "start_image_token": FRAME_START,
        "end_image_token": FRAME_END,
    }
    for key, need in needed.items():
        if (got := _content(values.get(key))) != need:
            reasons.add(f"{name}: {key}", quote(got) if got else "nothing", f"{quote(need)}, as in training", HINT_COPY)
    clip = _content(values.get("video_token"))
    number = names.token_to_id(clip) if clip else None
    if number is None or number not in names.get_added_tokens_decoder():
        need = "an added token of tokenizer.json, which stands for a clip"
        reasons.add(f"{name}: video_token", quote(clip) if clip else "nothing", need, HINT_COPY)
        return "", 0
    return clip or "", number


def _content(token: Any) -> str | None:
    """Returns the text of a token that is stated as text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
