"""What vLLM has to be told so that it feeds a merged Qwen model as its contract says. No torch.

contract + folder -> chat template, sizes for its video processor, settings of its loader -> `Handover`, or every reason why not

Source: vLLM 0.33.0, `multimodal/video.py`, `multimodal/media/video.py`, `model_executor/models/qwen2_5_vl.py`, `qwen3_vl.py`; the
video processors of transformers 5.19, which it calls.
"""

from __future__ import annotations

import json
import math
from typing import Any

from cvft.errors import quote
from cvft.families.engines import Engine, Handover, Reasons, Sends
from cvft.families.family import Preprocessing
from cvft.families.norms import PixelNorm
from cvft.families.qwen_vl.inputs import Inputs
from cvft.families.qwen_vl.layout import Style
from cvft.families.qwen_vl.sizes import TowerSizes
from cvft.families.qwen_vl.tokenizer import TURN_END, TURN_START, load_encoder
from cvft.families.text_encoder import open_tokenizer
from cvft.json_files import JsonError, read_object
from cvft.weights.folder import ModelFolder

NESTING_FILE = "processor_config.json"
PROCESSOR_FILES = (NESTING_FILE, "video_preprocessor_config.json", "preprocessor_config.json")
"""Files that transformers builds a video processor of: the first one that is there, and of `NESTING_FILE` its entry
`video_processor`. Source: `get_video_processor_dict` of its 5.19."""

BICUBIC = 3
"""How transformers' files name the cubic filter. Source: Pillow's `Resampling.BICUBIC`."""

ALL_FRAMES = {"num_frames": -1}
"""For requests that carry frames: all of them. Left out, vLLM takes the first 32."""

SGLANG = (
    ("pixels", "an engine that resizes frames linearly", "one that resizes as in training, cubic"),
    (
        "requests",
        "a chat route that takes clips alone",
        "one that takes frames of the right size, which would stay as they are",
    ),
)
"""Why nothing can be told to SGLang. Source: its 0.5.23, `srt/multimodal/processors/qwen_vl.py`, `preprocess_video`."""


def hand_over(
    engine: Engine,
    folder: ModelFolder,
    how: Preprocessing,
    *,
    style: Style,
    tower: TowerSizes,
    norm: PixelNorm,
    title: str,
    sends: Sends,
) -> Handover:
    """Says what vLLM has to be told.

    Args:
        engine: The engine.
        folder: The merged folder.
        how: How rows reach the model.
        style: How the generation writes rows, with the system prompt that was chosen.
        tower: Sizes of patches.
        norm: What colour channels are normalised with.
        title: The generation's name in sentences.
        sends: What requests carry.

    Raises:
        ModelError: with everything that the engine cannot reproduce.
    """
    inputs, reasons = Inputs.of(how.fields), Reasons(engine, title)
    if engine.name != "vllm":
        for where, got, need in SGLANG:
            reasons.add(where, got, need)
        if how.decode.sampling.strategy == "fps":
            reasons.add(
                "video.sampling", "`fps`, whose places the engine cuts to whole numbers", "places that are rounded"
            )
        reasons.check()
    if inputs.text_positions != "released":
        need = "`released`: the engine goes on counting behind the last second of a clip"
        reasons.add("model.text_positions", f"`{inputs.text_positions}`", need)
    if inputs.grid_seconds != "exact":
        need = "`exact`: the engine keeps the fraction of a second"
        reasons.add("model.grid_seconds", f"`{inputs.grid_seconds}`", need)
    _check_processor(folder, norm=norm, tower=tower, reasons=reasons)
    if sends == "clips":
        _check_clips(inputs, how, style=style, reasons=reasons)
    reasons.check()
    _, special = load_encoder(folder)
    names = open_tokenizer(folder.path).id_to_token
    tags = [names(number) or "" for number in (special.vision_start, special.video, special.vision_end)]
    has_outer = not style.has_seconds or inputs.clip_tags == "transformers5"
    return Handover(
        chat_template=_write_template(style, clip="".join(tags) if has_outer else tags[1]),
        media=ALL_FRAMES
        if sends == "frames"
        else {"video_backend": "opencv", "num_frames": how.decode.sampling.max_frames, "fps": -1},
        processor={
            "do_sample_frames": False,
            "size": _bounds(inputs, how, style=style, tower=tower, sends=sends),
        },
        system=inputs.system,
        stop_ids=(special.turn_end,),
        clip_id=special.video,
        fills_pairs=style.has_seconds,
    )


def _check_processor(folder: ModelFolder, *, norm: PixelNorm, tower: TowerSizes, reasons: Reasons) -> None:
    """Refuses a folder whose own file would let the engine make other numbers of the same frames."""
    hint = "copy it from the published model"
    for name in PROCESSOR_FILES:
        path = folder.path / name
        if not path.is_file():
            continue
        try:
            stated: Any = read_object(path)
        except JsonError as error:
            reasons.add(name, str(error), "the published file", hint)
            return
        if name == NESTING_FILE:
            stated = stated.get("video_processor")
            if not isinstance(stated, dict):
                continue
        for key, need in _needed(norm, tower).items():
            if key in stated and not _is_same(stated[key], need):
                reasons.add(
                    f"{name}: {key}", quote(json.dumps(stated[key])), f"`{json.dumps(need)}`, as in training", hint
                )
        return
    need = f"one of {', '.join(PROCESSOR_FILES)}, which the engine's processor reads"
    reasons.add("video_preprocessor_config.json", "no such file", need, hint)


def _needed(norm: PixelNorm, tower: TowerSizes) -> dict[str, Any]:
    """Returns what a file for the processor may say, by transformers' names; what it leaves out is so by itself."""
    return {
        "image_mean": norm.mean,
        "image_std": norm.std,
        "rescale_factor": 1 / 255,
        "resample": BICUBIC,
        "patch_size": tower.patch_size,
        "temporal_patch_size": tower.temporal_patch_size,
        "merge_size": tower.spatial_merge_size,
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
    }


def _is_same(value: Any, need: Any) -> bool:
    if isinstance(need, tuple):
        return isinstance(value, list) and len(value) == len(need) and all(map(_is_same, value, need))
    if isinstance(need, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and math.isclose(value, need, rel_tol=1e-6)
    return isinstance(value, bool) == isinstance(need, bool) and bool(value == need)


def _check_clips(inputs: Inputs, how: Preprocessing, *, style: Style, reasons: Reasons) -> None:
    """Refuses a contract whose frames or sizes the engine does not choose by itself."""
    sampling, hint = how.decode.sampling, "--send frames sends the frames as cvft chooses them"
    if sampling.strategy != "uniform":
        got = f"`{sampling.strategy}`, for which the engine takes other frames of many clips"
        reasons.add("video.sampling", got, "`uniform`, which is the engine's own rule too", hint)
        return
    if style.has_seconds and sampling.max_frames % 2:
        need = "an even number: the engine budgets an odd one for fewer frames"
        reasons.add("video.max_frames", f"{sampling.max_frames}", need, hint)
    least = inputs.max_frame_tokens * -(-sampling.max_frames // 2)
    if inputs.max_clip_tokens < least:
        need = f"at least {least}: the engine has one budget, and here two of them bind"
        reasons.add("video.max_clip_tokens", f"{inputs.max_clip_tokens}", need, hint)


def _bounds(inputs: Inputs, how: Preprocessing, *, style: Style, tower: TowerSizes, sends: Sends) -> dict[str, int]:
    """Returns the fewest and most pixels by the engine's names: of a frame, or of a whole clip where seconds are written.

    Frames that are sent have their size already: the bounds must not bind, yet the engine sets memory aside for the upper one.
    """
    token_px = (tower.patch_size * tower.spatial_merge_size) ** 2
    most_frames = how.decode.sampling.max_frames
    num_grids = -(-most_frames // tower.temporal_patch_size)
    fewest, most = inputs.min_frame_tokens, inputs.max_frame_tokens
    if sends == "clips":
        num_frames = most_frames if style.has_seconds else 1
        return {"shortest_edge": fewest * token_px * num_frames, "longest_edge": most * token_px * num_frames}
    most = max(most, 2 * fewest)  # a frame that grows to the fewest may pass the most: both sides are rounded up
    if style.has_seconds:
        most = max(min(most * num_grids, inputs.max_clip_tokens), 2 * fewest * num_grids) * tower.temporal_patch_size
    return {"shortest_edge": token_px, "longest_edge": most * token_px}


def _write_template(style: Style, *, clip: str) -> str:
    """Writes the template that makes of messages what `build_layout` makes of a row."""
    text = "part.text"
    if style.trims:  # the content's ends alone: text behind a clip keeps what it begins with
        text = "(part.text.rstrip() if loop.index0 else part.text.strip())"
    thought = "<think>\\n\\n</think>\\n\\n" if style.has_thinking else ""
    whole = "message.content.strip()" if style.trims else "message.content"
    return (
        "{%- for message in messages %}"
        f"{{{{- '{TURN_START}' + message.role + '\\n' }}}}"
        "{%- if message.content is string %}"
        f"{{{{- {whole} }}}}"
        "{%- else %}{%- for part in message.content %}"
        f"{{%- if part.type == 'text' %}}{{{{- {text} }}}}{{%- else %}}{{{{- '{clip}' }}}}{{%- endif %}}"
        "{%- endfor %}{%- endif %}"
        f"{{{{- '{TURN_END}\\n' }}}}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- '{TURN_START}assistant\\n{thought}' }}}}{{%- endif %}}"
    )
