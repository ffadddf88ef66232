"""config.json of Qwen's video models: what is absent, of another kind, or not carried out. No torch.

transformers' own classes carry out what config.json says, so little is looked at here: what plans and layouts read, and the few
keys that would make a row's answer depend on more than the row.
"""

from __future__ import annotations

from cvft.errors import Problem, quote
from cvft.families.qwen_vl.sizes import Sizes
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

HINT = "use the files that the checkpoint was published with"


def check_config(folder: ModelFolder) -> list[Problem]:
    """Returns a problem for everything of config.json that cannot be carried out."""
    config = folder.config
    vision, text = config.get("vision_config"), config.get("text_config", config)
    problems = [
        Problem(f"config.json: {name}", show(value), "an object", HINT)
        for name, value in (("vision_config", vision), ("text_config", text))
        if not isinstance(value, dict) and value is not config
    ]
    if problems:
        return problems
    try:
        sizes = Sizes.from_config(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [Problem("config.json", f"no usable {quote(str(error).strip(chr(39)))}", "the model's sizes", HINT)]
    counts = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.num_heads,
        "num_hidden_layers": sizes.num_layers,
        "max_position_embeddings": text.get("max_position_embeddings"),
        "vision_config.depth": sizes.tower.depth,
        "vision_config.hidden_size": sizes.tower.hidden_size,
        "vision_config.patch_size": sizes.tower.patch_size,
        "vision_config.temporal_patch_size": sizes.tower.temporal_patch_size,
        "vision_config.spatial_merge_size": sizes.tower.spatial_merge_size,
        "vision_config.out_hidden_size": sizes.tower.out_hidden_size,
    }
    problems = [
        Problem(f"config.json: {name}", show(value), "a whole number of at least 1", HINT)
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if text.get("use_sliding_window"):
        problems.append(Problem("config.json: use_sliding_window", "`true`", "`false`: every token sees all before it"))
    if text.get("attention_dropout"):
        got, need = quote(text["attention_dropout"]), "`0.0`: an adapter's dropout is `lora.dropout`"
        problems.append(Problem("config.json: attention_dropout", got, need))
    if not problems and sizes.tower.out_hidden_size != sizes.hidden_size:
        need = f"{sizes.hidden_size}, the decoder's width"
        problems.append(Problem("config.json: vision_config.out_hidden_size", str(sizes.tower.out_hidden_size), need))
    return problems
