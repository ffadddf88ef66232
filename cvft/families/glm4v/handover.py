"""What vLLM has to be told so that it feeds a merged GLM-4.1V as its contract says. No torch.

contract + folder -> chat template, budget for its video processor, settings of its loader -> `Handover`, or every reason why not

Source: vLLM 0.33.0, `model_executor/models/glm4_1v.py`, `multimodal/video.py`, `multimodal/media/video.py`; the processors of
transformers 5.19, which it calls. The ids under a clip, its seconds and its positions are those of training there.
"""

from __future__ import annotations

from cvft.errors import Problem, quote
from cvft.families.engine_inputs import (
    HINT_COPY,
    HINT_FRAMES,
    check_processor,
    media_of,
    pixels_of,
    write_template,
)
from cvft.families.engines import NEEDS_FRAMES, TAKES_CLIPS_ALONE, Engine, Handover, Reasons, Sends
from cvft.families.family import Preprocessing
from cvft.families.generation_file import stop_tokens
from cvft.families.glm4v.inputs import Inputs
from cvft.families.glm4v.size_rule import MIN_CLIP_PX
from cvft.families.glm4v.sizes import Sizes, TowerSizes
from cvft.families.glm4v.tokenizer import NAMES, load_encoder
from cvft.families.norms import CLIP_NORM
from cvft.families.processor_files import IMAGE_FILE, NESTING_FILE, find_settings, read_stated
from cvft.families.text_encoder import SETTINGS_FILES, open_tokenizer
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

PROCESSOR_CLASS = "Glm4vProcessor"
"""Class whose seconds stand in prompts as whole numbers; vLLM writes those of any other as `1.0 seconds`.
Source: `_construct_video_placeholder`."""

CLIP_TOKENS = ("<|begin_of_video|>", "<|video|>", "<|end_of_video|>")
"""What vLLM looks for in a prompt, and replaces by the tokens of a clip. Source: `_get_prompt_updates`."""

SAMPLING = {
    "fps": (
        "`fps`, for which the engine steps through a clip from its start "
        "(`DynamicVideoBackend` of `multimodal/video.py`), and training took frames from the first to the last"
    ),
    "uniform": (
        "`uniform`, where the engine chooses again among the frames of a short clip "
        "(`create_hf_metadata` of `multimodal/video.py` sets `do_sample_frames` where all were taken)"
    ),
}
"""Why clips cannot be sent to vLLM, by the contract's rule."""


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
    inputs, tower, reasons = Inputs.of(how.fields), Sizes.from_config(folder.config).tower, Reasons(engine, title)
    strategy = how.decode.sampling.strategy
    if engine.name != "vllm":
        got = (
            f"`{strategy}`, where the engine takes a frame each 1/fps s from the start of a clip "
            "(`glm_sample_and_decode_sync` of `multimodal/processors/glm4v.py`)"
        )
        reasons.add("video.sampling", got, "frames from the first to the last")
        reasons.add("requests", TAKES_CLIPS_ALONE, NEEDS_FRAMES)
        reasons.check()
    if sends == "clips":
        reasons.add("video.sampling", SAMPLING[strategy], "frames that are chosen once", HINT_FRAMES)
    patches = {
        "patch_size": tower.patch_size,
        "temporal_patch_size": tower.temporal_patch_size,
        "merge_size": tower.spatial_merge_size,
    }
    check_processor(folder, {**pixels_of(CLIP_NORM), **patches}, reasons=reasons)
    _check_sizes(folder, reasons=reasons)
    _check_class(folder, reasons=reasons)
    _, special = load_encoder(folder)
    names = open_tokenizer(folder.path).id_to_token
    found = [names(number) or "" for number in (special.clip_start, special.clip_end)]
    if found != [CLIP_TOKENS[0], CLIP_TOKENS[-1]]:
        got, need = (
            " and ".join(map(quote, found)),
            f"`{CLIP_TOKENS[0]}` and `{CLIP_TOKENS[-1]}`, which the engine looks for",
        )
        reasons.add("config.json: video_start_token_id, video_end_token_id", got, need)
    reasons.check()
    return Handover(
        chat_template=write_template(
            begins=NAMES["mask"] + NAMES["start"],
            opens="'<|' + message.role + '|>\\n'",
            closes="",
            answers=f"{NAMES['assistant']}\n",
            clip="".join(CLIP_TOKENS),
        ),
        media=media_of(how.decode.sampling, sends=sends),
        processor={"do_sample_frames": False, "size": _bounds(inputs, tower=tower)},
        system=inputs.system,
        stop_ids=tuple(stop_tokens(folder, turn_end=special.user)),
        clip_id=special.image,
        engine_clip_id=special.image,
        fills_pairs=True,
    )


def _check_sizes(folder: ModelFolder, *, reasons: Reasons) -> None:
    """Refuses a folder without the sizes that the engine reads when it starts. Source: `_get_longest_edge` and who calls it."""
    for kind in ("image_processor", "video_processor"):
        where, values = find_settings(folder, kind)
        if isinstance(values, Problem):
            continue  # said already
        size = values.get("size")
        if not isinstance(size, dict) or not isinstance(size.get("longest_edge"), int):
            need = "an object with `longest_edge`, which the engine reads when it starts"
            reasons.add(f"{where or IMAGE_FILE}: size", show(size) if size else "nothing", need, HINT_COPY)


def _check_class(folder: ModelFolder, *, reasons: Reasons) -> None:
    """Refuses a folder for whose processor the engine writes seconds otherwise. Source: `get_processor_config`."""
    for name in (NESTING_FILE, IMAGE_FILE, SETTINGS_FILES[0]):
        if (stated := read_stated(folder, name).get("processor_class")) is not None:
            if stated != PROCESSOR_CLASS:
                need = f"`{PROCESSOR_CLASS}`: the engine writes seconds of another one as `1.0 seconds`"
                reasons.add(f"{name}: processor_class", quote(stated), need, HINT_COPY)
            return


def _bounds(inputs: Inputs, *, tower: TowerSizes) -> dict[str, int]:
    """Returns the fewest and most pixels of a clip. The frames that are sent have their size already: neither may bind.

    The engine sets memory aside for the upper one. A clip that grows to the fewest may pass it: both sides are rounded up.
    """
    token_px = tower.token_px**2
    most = max(inputs.max_clip_tokens * token_px * tower.temporal_patch_size, 4 * MIN_CLIP_PX)
    return {"shortest_edge": token_px, "longest_edge": most}
