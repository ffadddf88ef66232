"""config.json of InternVL's video models: what is absent, of another kind, or not carried out. No torch.

transformers' own classes carry out what config.json says, so little is looked at here: what plans and layouts read, and the few
keys that would make a row's answer depend on more than the row.
"""

from __future__ import annotations

from cvft.errors import Problem, quote
from cvft.families.generation_file import HINT
from cvft.families.internvl.sizes import DECODERS, QWEN2, Sizes
from cvft.json_files import show
from cvft.weights.folder import ModelFolder

DROPOUTS = ("hidden_dropout_prob", "attention_dropout", "projection_dropout")
"""Keys of the tower."""


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
    text, vision = halves["text_config"], halves["vision_config"]
    assert text is not None, "an object"
    assert vision is not None, "an object"
    decoder = text.get("model_type", QWEN2)
    if decoder not in DECODERS:
        need = f"{' or '.join(map(quote, DECODERS))}: other decoders are not trained yet"
        return [Problem("config.json: text_config.model_type", show(decoder), need)]
    try:
        sizes = Sizes.from_config(config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        return [Problem("config.json", f"no usable {quote(str(error).strip(chr(39)))}", "the model's sizes", HINT)]
    counts = {
        "text_config.vocab_size": sizes.vocab_size,
        "text_config.hidden_size": sizes.hidden_size,
        "text_config.num_attention_heads": sizes.num_heads,
        "text_config.num_hidden_layers": sizes.num_layers,
        "text_config.max_position_embeddings": text.get("max_position_embeddings"),
        "vision_config.num_hidden_layers": sizes.tower.depth,
        "vision_config.hidden_size": sizes.tower.hidden_size,
        "vision_config.image_size": sizes.tower.image_size,
        "vision_config.patch_size": sizes.tower.patch_size,
        "image_seq_length": config.get("image_seq_length", 256),
    }
    problems = [
        Problem(f"config.json: {name}", show(value), "a whole number of at least 1", HINT)
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if text.get("use_sliding_window"):
        problems.append(
            Problem("config.json: text_config.use_sliding_window", "`true`", "`false`: every token sees all before it")
        )
    if text.get("attention_dropout"):
        got, need = quote(text["attention_dropout"]), "`0.0`: an adapter's dropout is `lora.dropout`"
        problems.append(Problem("config.json: text_config.attention_dropout", got, need))
    problems += [
        Problem(f"config.json: vision_config.{key}", show(vision[key]), "`0.0`", HINT)
        for key in DROPOUTS
        if vision.get(key)
    ]
    fixed = {
        "vision_feature_layer": (config.get("vision_feature_layer", -1), -1),
        "vision_feature_select_strategy": (config.get("vision_feature_select_strategy", "default"), "default"),
        "vision_config.use_mean_pooling": (vision.get("use_mean_pooling", True), True),
        "vision_config.use_mask_token": (vision.get("use_mask_token", False), False),
        "vision_config.use_absolute_position_embeddings": (vision.get("use_absolute_position_embeddings", True), True),
    }
    problems += [
        Problem(f"config.json: {key}", show(got), f"{show(need)}, as all published checkpoints have it", HINT)
        for key, (got, need) in fixed.items()
        if got != need
    ]
    return problems or _check_tokens(sizes, config.get("image_seq_length", 256))


def _check_tokens(sizes: Sizes, stated: int) -> list[Problem]:
    tower = sizes.tower
    step = tower.patch_size * tower.downsample
    if tower.image_size % step:
        need = f"a multiple of {step}, a token's side"
        return [Problem("config.json: vision_config.image_size", str(tower.image_size), need, HINT)]
    if stated != tower.tokens_per_frame:
        need = f"{tower.tokens_per_frame}, the tokens of a frame of {tower.image_size} px"
        return [Problem("config.json: image_seq_length", str(stated), need, HINT)]
    return []
