"""What other models call the linear layers of a decoder block, by what Llama-like models call them. No torch."""

from __future__ import annotations

ATTENTION_ALIASES = {
    **dict.fromkeys(("qkv_proj", "query_key_value", "c_attn", "w_pack", "wqkv"), "qkv"),
    **dict.fromkeys(("q", "wq"), "q_proj"),
    **dict.fromkeys(("k", "wk"), "k_proj"),
    **dict.fromkeys(("v", "wv"), "v_proj"),
    **dict.fromkeys(("dense", "c_proj", "wo"), "o_proj"),
}
MLP_ALIASES = {
    **dict.fromkeys(("w1", "gate"), "gate_proj"),
    **dict.fromkeys(("w3", "up", "dense_h_to_4h"), "up_proj"),
    **dict.fromkeys(("w2", "down", "dense_4h_to_h"), "down_proj"),
}
"""Names of Llama, GPT-2 and ChatGLM."""
