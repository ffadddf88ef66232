"""config.json of GLM-4.1V's models: what is absent, of another kind, or not carried out. No torch.

transformers' own classes carry out what config.json says, so little is looked at here: what plans and layouts read, and the few
keys that would make a row's answer depend on more than the row.
"""

from __future__ import annotations

from cvft.errors import Problem, quote
from cvft.families.generation_file import HINT
from cvft.families.glm4v.sizes import Sizes
from cvft.json_files import show
from cvft.weights.folder import ModelFolder


def check_config(folder: ModelFolder) -> list[Problem]:
    """Returns a problem for everything of config.json that cannot be carried out."""
    config = folder.config
    halves = {name: config.get(name) for name in ("text_config", "vision_config")}
    problems = [
        Problem(f"config.json: {name}", show(value), "an object", HINT)
        for name, value in halves.items()
        if not isinstance(value, dict)
    ]
    if problems:
        return problems
    try:
        sizes = Sizes.from_config(config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        return [Problem("config.json", f"no usable {quote(str(error).strip(chr(39)))}", "the model's sizes", HINT)]
    text, tower = config["text_config"], sizes.tower
    counts = {
        "text_config.vocab_size": sizes.vocab_size,
        "text_config.hidden_size": sizes.hidden_size,
        "text_config.num_attention_heads": sizes.num_heads,
        "text_config.num_hidden_layers": sizes.num_layers,
        "text_config.max_position_embeddings": text.get("max_position_embeddings"),
        "vision_config.depth": tower.depth,
        "vision_config.hidden_size": tower.hidden_size,
        "vision_config.patch_size": tower.patch_size,
        "vision_config.temporal_patch_size": tower.temporal_patch_size,
        "vision_config.spatial_merge_size": tower.spatial_merge_size,
        "vision_config.out_hidden_size": tower.out_hidden_size,
    }
    problems = [
        Problem(f"config.json: {name}", show(value), "a whole number of at least 1", HINT)
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    for where, values in halves.items():
        if values is not None and values.get("attention_dropout"):
            got, need = quote(values["attention_dropout"]), "`0.0`: an adapter's dropout is `lora.dropout`"
            problems.append(Problem(f"config.json: {where}.attention_dropout", got, need))
    if not problems and tower.out_hidden_size != sizes.hidden_size:
        need = f"{sizes.hidden_size}, the decoder's width"
        problems.append(Problem("config.json: vision_config.out_hidden_size", str(tower.out_hidden_size), need))
    return problems
