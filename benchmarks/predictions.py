"""What `cvft plan`'s models of memory and FLOPs say beside what torch counts: `python benchmarks/predictions.py`.

One forward and backward pass of the tiny model per case, on the CPU: activations that autograd keeps (by torch's hooks, without
weights and logits) and FLOPs (by torch's FlopCounterMode). Writes `benchmarks/results/predictions--<device>.json`.
"""

from __future__ import annotations

from typing import Any

import peft
import torch
from job import write_result
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cvft.data.groups import RowShape
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.costs import costs_of
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.cogvlm2_video.tensors import PARTS
from cvft.families.costs import Training
from cvft.families.network.grouping import group_rows
from cvft.families.parts import adapted_names, count_adapter, target_regex
from cvft.plan.passes import count_batch
from cvft.shipped import SHIPPED
from cvft.weights.folder import read_config_json

TINY = SHIPPED["tiny"].folder
RANK = 8
CASES = {"1 row": [1], "a group of 4 rows": [4], "a group of 8 rows": [8], "3 groups, padded": [4, 2, 1]}
NUM_FRAMES = 24


def main() -> None:
    """Measures every case and writes the result."""
    results = {}
    for targets in ("qkv", "all-linear"):
        for name, groups in CASES.items():
            for recompute in (False, True):
                label = f"{targets}, {name}{', recomputed' if recompute else ''}"
                results[label] = measure(targets, groups, recompute=recompute)
                print(label, results[label])
    path = write_result(
        "predictions",
        command="python benchmarks/predictions.py",
        timed_region="nothing is timed: one forward and backward pass is counted",
        cases=results,
    )
    print(path)


def measure(targets: str, groups: list[int], *, recompute: bool) -> dict[str, Any]:
    """Counts one pass over groups of so many rows, by torch and by the models."""
    processor = CogVLM2VideoProcessor.from_pretrained(TINY, template="chat")
    generator = torch.Generator().manual_seed(0)
    sequences, shapes, batch = [], [], []
    for clip, num_rows in enumerate(groups):
        features = torch.randn(NUM_FRAMES, 4, 96, generator=generator)
        rows = [
            processor.encode(
                "what is shown at the second ?" + " red" * number,
                vision_features=features,
                time_indices=range(NUM_FRAMES),
                response="red circle",
            )
            for number in range(num_rows)
        ]
        batch.append(tuple(range(len(shapes), len(shapes) + num_rows)))
        for row in rows:
            num_prefix = int((row["segment_ids"] == 0).sum())
            num_labels = int((row["labels"] != -100).sum())
            num_questions = len(row["input_ids"]) - num_prefix
            frames, tokens = (NUM_FRAMES,), (num_prefix - 1,)
            shapes.append(RowShape((clip,), num_prefix, num_questions, num_labels, frames, tokens))
        sequences.append(group_rows(rows))
    fed = count_batch(tuple(batch), shapes, caches=True)
    inputs = processor.collate(sequences)
    model = peft.get_peft_model(
        load_model(TINY, dtype=torch.float32, with_tower=False),
        peft.LoraConfig(target_modules=target_regex(PARTS, targets), r=RANK),
    ).train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    real_bytes = count_saved_bytes(model, inputs)
    real_flops = count_flops(model, inputs)
    architecture = Architecture.from_config(read_config_json(TINY))
    adapter = count_adapter(PARTS, architecture.shapes, targets=targets, rank=RANK)
    training = Training(
        4, adapted_names(PARTS, targets), rank=RANK, adapter=adapter, recompute=recompute, has_tower=False
    )
    costs = costs_of(architecture)
    predicted_bytes = costs.saved_bytes(fed, training)
    predicted_flops = costs.training_flops(fed, training).total
    return {
        "saved_bytes": {
            "predicted": predicted_bytes,
            "measured": real_bytes,
            "error": predicted_bytes / real_bytes - 1,
        },
        "flops": {"predicted": predicted_flops, "measured": real_flops, "error": predicted_flops / real_flops - 1},
    }


def count_saved_bytes(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes of all storages that autograd keeps in a forward pass, without weights and logits."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    own.add(inputs["vision_features"].untyped_storage().data_ptr())
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and model.config.vocab_size not in tensor.shape:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # an address may come again only when nobody holds it
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs, label_logits_only=True)
    return sum(kept.values())


def count_flops(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """FLOPs of a forward and backward pass; torch knows the fused attention of GPUs only, so its formula is lent."""

    def forward(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
    ) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    lent = {on_cpu: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    with FlopCounterMode(display=False, custom_mapping=lent) as counter:
        model(**inputs, label_logits_only=True).loss.backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
