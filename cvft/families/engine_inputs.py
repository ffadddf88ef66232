"""What hand-overs of all families share: what engines read beside a model, and what they are told in its place. No torch.

Source: vLLM 0.33.0, `multimodal/video.py`, `multimodal/media/video.py`; transformers 5.19, `video_processing_utils.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from cvft.data.video.sample import Sampling
from cvft.errors import Problem, quote
from cvft.families.engines import Reasons, Sends
from cvft.families.norms import PixelNorm
from cvft.families.processor_files import BICUBIC, PROCESSOR_FILES, find_settings
from cvft.weights.folder import ModelFolder

HINT_COPY = "copy it from the published model"
HINT_FRAMES = "--send frames sends the frames as cvft chooses them"


def media_of(sampling: Sampling, *, sends: Sends) -> dict[str, Any]:
    """Returns what vLLM's loader is told: to take all frames that it is sent (else 32 of them), or how many of a clip.

    Args:
        sampling: The contract's rule.
        sends: What requests carry; with clips, the rule is `uniform`.
    """
    if sends == "frames":
        return {"num_frames": -1}
    return {"video_backend": "opencv", "num_frames": sampling.max_frames, "fps": -1}


def check_uniform(sampling: Sampling, *, reasons: Reasons) -> bool:
    """Refuses clips whose frames vLLM's loader `opencv` does not choose by itself; returns whether it does."""
    if sampling.strategy == "uniform":
        return True
    got = f"`{sampling.strategy}`, for which the engine takes other frames of many clips"
    reasons.add("video.sampling", got, "`uniform`, which is the engine's own rule too", HINT_FRAMES)
    return False


def pixels_of(norm: PixelNorm) -> dict[str, Any]:
    """Returns what a processor's file may say of pixels, by transformers' names, so that they become those of training.

    Args:
        norm: What colour channels are normalised with.
    """
    return {
        "image_mean": norm.mean,
        "image_std": norm.std,
        "rescale_factor": 1 / 255,
        "resample": BICUBIC,
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
    }


def check_processor(
    folder: ModelFolder, needed: Mapping[str, Any], *, reasons: Reasons, stated: Collection[str] = ()
) -> None:
    """Refuses a folder whose own file would let the engine make other numbers of the same frames.

    Args:
        folder: The merged folder.
        needed: What its file for the video processor may say.
        reasons: Takes what it says else.
        stated: Those of `needed` that it has to say, because the engine's own default is another.
    """
    where, values = find_settings(folder)
    if isinstance(values, Problem):
        reasons.add(where, values.got, values.need, HINT_COPY)
        return
    if not where:
        need = f"one of {', '.join(PROCESSOR_FILES)}, which the engine's processor reads"
        reasons.add("video_preprocessor_config.json", "no such file", need, HINT_COPY)
        return
    for key, need in needed.items():
        if key not in values and key not in stated:
            continue
        got = quote(json.dumps(values[key])) if key in values else "nothing"
        if key not in values or not _is_same(values[key], need):
            reasons.add(f"{where}: {key}", got, f"`{json.dumps(need)}`, as in training", HINT_COPY)


def _is_same(value: Any, need: Any) -> bool:
    if isinstance(need, tuple):
        return isinstance(value, list) and len(value) == len(need) and all(map(_is_same, value, need))
    if isinstance(need, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and math.isclose(value, need, rel_tol=1e-6)
    return isinstance(value, bool) == isinstance(need, bool) and bool(value == need)


def write_template(*, opens: str, closes: str, answers: str, clip: str, begins: str = "", trims: bool = False) -> str:
    """Writes the Jinja template that makes of messages what a family's layout makes of a row.

    Args:
        opens: Jinja expression of what stands before the content of a `message`.
        closes: Text behind it.
        answers: Text that begins the answer.
        clip: Text in the place of a clip.
        begins: Text before all messages.
        trims: Whether contents lose white space at their ends: text behind a clip keeps what it begins with.
    """
    text, whole = "part.text", "message.content"
    if trims:
        text, whole = "(part.text.rstrip() if loop.index0 else part.text.strip())", "message.content.strip()"
    return (
        f"{_say(begins)}{{%- for message in messages %}}{{{{- {opens} }}}}"
        f"{{%- if message.content is string %}}{{{{- {whole} }}}}"
        "{%- else %}{%- for part in message.content %}"
        f"{{%- if part.type == 'text' %}}{{{{- {text} }}}}{{%- else %}}{_say(clip)}{{%- endif %}}"
        f"{{%- endfor %}}{{%- endif %}}{_say(closes)}{{%- endfor %}}"
        f"{{%- if add_generation_prompt %}}{_say(answers)}{{%- endif %}}"
    )


def _say(text: str) -> str:
    """Writes the Jinja expression of a text; nothing of an empty one."""
    escaped = text.replace("\n", "\\n")
    return f"{{{{- '{escaped}' }}}}" if text else ""


def write_chatml(*, start: str, end: str, clip: str, thought: str = "", trims: bool = False) -> str:
    """Writes the template of families whose turns are `start`, role, newline, content, `end`, newline.

    Args:
        start: Token that starts a turn.
        end: Token that ends it.
        clip: Text in the place of a clip.
        thought: Text at the start of the answer.
        trims: Whether contents lose white space at their ends.
    """
    opens = f"'{start}' + message.role + '\\n'"
    return write_template(
        opens=opens, closes=f"{end}\n", answers=f"{start}assistant\n{thought}", clip=clip, trims=trims
    )
