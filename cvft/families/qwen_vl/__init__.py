"""Qwen2.5-VL, Qwen3-VL and Qwen3.5: one module, for they differ in a few sizes and blocks."""
