"""Greedy answers: encoded prompts in, text out, in left-padded batches of rows with clips of any length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cvft.model.modeling import CogVLM2VideoForCausalLM
    from cvft.model.processor import CogVLM2VideoProcessor


def generate_answers(
    model: CogVLM2VideoForCausalLM,
    processor: CogVLM2VideoProcessor,
    rows: Sequence[Mapping[str, Tensor]],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Answers one batch of prompts greedily.

    Args:
        model: The model, or a peft model around it.
        processor: The processor that encoded the rows.
        rows: Prompts as `CogVLM2VideoProcessor.encode` returns them without a response.
        max_new_tokens: Longest answer in tokens; a longer one is cut there.

    Returns:
        One answer per row, without special tokens and without white space around it.
    """
    batch = processor.collate(rows, padding_side="left")
    batch.pop("labels")
    batch = {key: value.to(model.device) for key, value in batch.items()}
    with torch.inference_mode():
        sequences = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=processor.special.eos,
            pad_token_id=processor.special.vision,
            repetition_penalty=1.0,  # all stated, because a folder's generation_config.json may say otherwise
        )
    new_ids = sequences[:, batch["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
