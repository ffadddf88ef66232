"""What vLLM has to be told so that it feeds a merged Qwen model as its contract says. No torch.

contract + folder -> chat template, sizes for its video processor, settings of its loader -> `Handover`, or every reason why not

Source: vLLM 0.33.0, `multimodal/video.py`, `multimodal/media/video.py`, `model_executor/models/qwen2_5_vl.py`, `qwen3_vl.py`; the
video processors of transformers 5.19, which it calls.
"""

from __future__ import annotations

from cvft.families.engine_inputs import (
    HINT_FRAMES,
    check_processor,
    check_uniform,
    media_of,
    pixels_of,
    write_chatml,
)
from cvft.families.engines import NEEDS_FRAMES, TAKES_CLIPS_ALONE, Engine, Handover, Reasons, Sends
from cvft.families.family import Preprocessing
from cvft.families.generation_file import stop_tokens
from cvft.families.norms import PixelNorm
from cvft.families.qwen_vl.inputs import Inputs
from cvft.families.qwen_vl.layout import Style
from cvft.families.qwen_vl.sizes import TowerSizes
from cvft.families.qwen_vl.tokenizer import TURN_END, TURN_START, load_encoder
from cvft.families.text_encoder import open_tokenizer
from cvft.weights.folder import ModelFolder

SGLANG = (
    (
        "pixels",
        "an engine that resizes frames linearly (`preprocess_video` of `multimodal/processors/qwen_vl.py`)",
        "one that resizes as in training, cubic",
    ),
    ("requests", TAKES_CLIPS_ALONE, NEEDS_FRAMES),
)
"""Why nothing can be told to SGLang. Source: its 0.5.23, `srt/`. A file of frames that have their size already would pass
`preprocess_video` as it is, but the seconds of Qwen3-VL's frames would be those of that file, and no contract's."""

CUT_PLACES = "`fps`, whose places the engine cuts to whole numbers (`preprocess_video`: `np.linspace` as `int64`)"


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
            reasons.add("video.sampling", CUT_PLACES, "places that are rounded")
        reasons.check()
    if inputs.text_positions != "released":
        need = "`released`: the engine goes on counting behind the last second of a clip"
        reasons.add("model.text_positions", f"`{inputs.text_positions}`", need)
    if inputs.grid_seconds != "exact":
        need = "`exact`: the engine keeps the fraction of a second"
        reasons.add("model.grid_seconds", f"`{inputs.grid_seconds}`", need)
    patches = {
        "patch_size": tower.patch_size,
        "temporal_patch_size": tower.temporal_patch_size,
        "merge_size": tower.spatial_merge_size,
    }
    check_processor(folder, {**pixels_of(norm), **patches}, reasons=reasons)
    if sends == "clips":
        _check_clips(inputs, how, style=style, reasons=reasons)
    reasons.check()
    _, special = load_encoder(folder)
    names = open_tokenizer(folder.path).id_to_token
    tags = [names(number) or "" for number in (special.vision_start, special.video, special.vision_end)]
    has_outer = not style.has_seconds or inputs.clip_tags == "transformers5"
    return Handover(
        chat_template=write_chatml(
            start=TURN_START,
            end=TURN_END,
            clip="".join(tags) if has_outer else tags[1],
            thought="<think>\n\n</think>\n\n" if style.has_thinking else "",
            trims=style.trims,
        ),
        media=media_of(how.decode.sampling, sends=sends),
        processor={
            "do_sample_frames": False,
            "size": _bounds(inputs, how, style=style, tower=tower, sends=sends),
        },
        system=inputs.system,
        stop_ids=tuple(stop_tokens(folder, turn_end=special.turn_end)),
        clip_id=special.video,
        engine_clip_id=special.video,
        fills_pairs=style.has_seconds,
    )


def _check_clips(inputs: Inputs, how: Preprocessing, *, style: Style, reasons: Reasons) -> None:
    """Refuses a contract whose frames or sizes the engine does not choose by itself."""
    sampling = how.decode.sampling
    if not check_uniform(sampling, reasons=reasons):
        return
    if style.has_seconds and sampling.max_frames % 2:
        need = "an even number: the engine budgets an odd one for fewer frames"
        reasons.add("video.max_frames", f"{sampling.max_frames}", need, HINT_FRAMES)
    least = inputs.max_frame_tokens * -(-sampling.max_frames // 2)
    if inputs.max_clip_tokens < least:
        need = f"at least {least}: the engine has one budget, and here two of them bind"
        reasons.add("video.max_clip_tokens", f"{inputs.max_clip_tokens}", need, HINT_FRAMES)


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
