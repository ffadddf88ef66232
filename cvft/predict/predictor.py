"""Models that answer rows: a base, an adapter on its base, or a merged folder, always fed as their contract says.

rows -> clips (decoded, or their features) -> prompts -> greedy answers, in batches
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvft.clips.source import ClipSource, DecodedClips
from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.families.cogvlm2_video.layout import time_indices
from cvft.families.cogvlm2_video.network.generation import generate_answers
from cvft.families.cogvlm2_video.network.load import DTYPES, load_model
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.network.quantization import bytes_per_value
from cvft.families.contract import Contract
from cvft.predict.placement import spreads_over_gpus
from cvft.weights.folder import TOWER_NAMES, read_config_json
from cvft.weights.shards import read_shards


class Answerer:
    """A model with everything that turns rows into its inputs.

    Args:
        model: The model, or a peft model around it.
        processor: Its processor.
        clips: Gives its clips.
        sampling: Name of the rule that chooses their frames.
    """

    def __init__(self, model: Any, processor: CogVLM2VideoProcessor, clips: ClipSource, *, sampling: str) -> None:
        self.model = model
        self.processor = processor
        self.clips = clips
        self.sampling = sampling

    def encode(self, row: Row, *, with_response: bool = False) -> dict[str, Tensor]:
        """Encodes a row, as a prompt or with its answer.

        Raises:
            ClipError: when its clip cannot be decoded.
        """
        clip = None if row.video is None else self.clips.load(row.video)
        tensors: Mapping[str, Tensor] = {} if clip is None else clip.tensors
        return self.processor.encode(
            row.query,
            pixel_values=tensors.get("pixel_values"),
            vision_features=tensors.get("vision_features"),
            time_indices=() if clip is None else time_indices(clip.timestamps_s, sampling=self.sampling),
            history=row.history,
            response=row.response if with_response else None,
        )

    def answer(
        self,
        rows: Sequence[Row],
        *,
        batch_rows: int,
        max_new_tokens: int,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """Answers rows greedily.

        Args:
            rows: The rows; their responses are not looked at.
            batch_rows: Rows answered at a time.
            max_new_tokens: Longest answer in tokens.
            on_progress: Called with the number of rows of each finished batch.

        Returns:
            One answer per row, in order.
        """
        # rows of one clip side by side: its prefix is computed once for all of them in a batch
        first_with: dict[Path | int, int] = {}
        clips = [number if row.video is None else row.video for number, row in enumerate(rows)]
        order = sorted(range(len(rows)), key=lambda number: first_with.setdefault(clips[number], number))
        answers = [""] * len(rows)
        for start in range(0, len(rows), batch_rows):
            numbers = order[start : start + batch_rows]
            batch = [self.encode(rows[number]) for number in numbers]
            texts = generate_answers(
                self.model,
                self.processor,
                batch,
                max_new_tokens=max_new_tokens,
                clips=[clips[number] for number in numbers],
            )
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
            if on_progress is not None:
                on_progress(len(batch))
        return answers

    def close(self) -> None:
        """Ends the decode process."""
        self.clips.close()


def load_answerer(
    model_folder: Path,
    *,
    contract: Contract,
    adapter_folder: Path | None = None,
    dtype: str,
    quantize: str = "none",
    embeddings_on_cpu: bool = False,
    attention: str | None = None,
    device: str = "cpu",
    timeout_s: float = 60.0,
    memory_gib: float = 4.0,
    cached: ClipSource | None = None,
) -> Answerer:
    """Loads a base, an adapter on its base, or a merged folder.

    Args:
        model_folder: Base or merged folder.
        contract: How rows reach the model.
        adapter_folder: Adapter to put on the base, or None.
        dtype: `bf16` or `fp32`.
        quantize: `nf4` or `int8` for coarse weights of the decoder blocks; see `load_model`.
        embeddings_on_cpu: Whether the input embedding stays in the host's memory.
        attention: transformers' name of the attention implementation.
        device: `cpu` or `cuda`.
        timeout_s: Seconds that a clip may take.
        memory_gib: Address space that decoding may take.
        cached: Gives every clip's features; then neither decoder nor tower is loaded.

    Returns:
        The model, ready to answer.

    Raises:
        ModelError: when the folder does not hold exactly the model's tensors.
    """
    model: Any = load_model(
        model_folder,
        dtype=DTYPES[dtype],
        attention=attention,
        rope_precision=contract.rope_precision,
        with_tower=cached is None,
        device_map=_device_map(model_folder, device=device, dtype=dtype, quantize=quantize, with_tower=cached is None),
        quantize=quantize,
        embeddings_on_cpu=embeddings_on_cpu,
    )
    if adapter_folder is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter_folder)).eval()
    processor = CogVLM2VideoProcessor.from_pretrained(model_folder, template=contract.template)
    settings = DecodeSettings.of(
        contract.sampling,
        max_frames=contract.max_frames,
        decoder=contract.decoder,
        timeout_s=timeout_s,
        memory_gib=memory_gib,
    )
    return Answerer(model, processor, cached or DecodedClips(processor, settings), sampling=contract.sampling)


def _device_map(folder: Path, *, device: str, dtype: str, quantize: str, with_tower: bool) -> Any:
    """Puts a model where it fits: on the device, or on all GPUs when it is too large for one."""
    if device != "cuda":
        return {"": device}
    entries = [entry for shard in read_shards(folder, read_config_json(folder)) for entry in shard.entries]
    weight_bytes = sum(
        math.prod(entry.shape) * bytes_per_value(entry.name, dtype=dtype, quantize=quantize)
        for entry in entries
        if with_tower or not entry.name.startswith(TOWER_NAMES)
    )
    free_bytes = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    if not spreads_over_gpus(round(weight_bytes), free_bytes):
        return {"": device}
    print(
        f"model     spread over {len(free_bytes)} GPUs: one has no room for {weight_bytes / 1e9:.1f} GB",
        file=sys.stderr,
    )
    return "balanced"
