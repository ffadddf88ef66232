"""Which linear layers get an adapter, as one regular expression over the published module names.

ms-swift would build its own from an architecture table, in an order that changes from run to run; a stated expression
makes the plan reproducible and says exactly what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from cvft.errors import Problem, RecipeError, did_you_mean, quote

QKV = "language_expert_query_key_value"

LANGUAGE_MODULES = {
    QKV: "self_attn",
    "language_expert_dense": "self_attn",
    "gate_proj": r"mlp\.language_mlp",
    "up_proj": r"mlp\.language_mlp",
    "down_proj": r"mlp\.language_mlp",
}
"""Linear layers of a decoder block and where in the block they lie. Source: the published state-dict keys."""

VISION_MODULES = r"model\.vision\.transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.(fc1|fc2))"
PROJECTOR_MODULES = r"model\.vision\.linear_proj\.(linear_proj|gate_proj|dense_h_to_4h|dense_4h_to_h)"


def target_regex(
    targets: str | Sequence[str], *, train_vision_tower: bool = False, train_projector: bool = False
) -> str:
    """Turns a recipe's targets into the expression that peft matches module names against, whole.

    Args:
        targets: `qkv`, `all-linear`, or names of linear layers of a decoder block.
        train_vision_tower: Adapters on the tower's blocks too.
        train_projector: Adapters on the projector too.

    Returns:
        A regular expression.

    Raises:
        RecipeError: when a name is no linear layer of a decoder block.
    """
    names = {"qkv": [QKV], "all-linear": list(LANGUAGE_MODULES)}.get(targets) if isinstance(targets, str) else targets
    assert names is not None, targets
    unknown = [name for name in names if name not in LANGUAGE_MODULES]
    if unknown:
        need = f"linear layers of a decoder block: {', '.join(quote(name) for name in LANGUAGE_MODULES)}"
        raise RecipeError(
            "recipe",
            [Problem("lora.targets", quote(name), need, did_you_mean(name, LANGUAGE_MODULES)) for name in unknown],
        )
    layers = "|".join(rf"{LANGUAGE_MODULES[name]}\.{name}" for name in LANGUAGE_MODULES if name in names)
    parts = [rf"model\.layers\.\d+\.({layers})"]
    parts += [VISION_MODULES] if train_vision_tower else []
    parts += [PROJECTOR_MODULES] if train_projector else []
    return f"^({'|'.join(parts)})$"
